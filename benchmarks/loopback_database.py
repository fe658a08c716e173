"""A PostgreSQL server of this user on loopback, for benchmarks and tests of shared runs; needs Debian's postgresql."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@contextmanager
def database_server(folder: Path) -> Iterator[str]:
    """A server on a free port of the loopback, with its data in `folder`, for as long as the block lasts; yields its URL."""
    assert SERVERS, "these tests need a PostgreSQL server: apt-get install postgresql"
    owner = {"user": "postgres"} if os.getuid() == 0 else {}  # the server refuses to be root
    if owner:
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        for above in folder.parents:
            if above.stat().st_uid == 0 and above != Path("/") and above != Path("/tmp"):
                above.chmod(above.stat().st_mode | 0o011)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = SERVERS[-1].parent
    data = folder / "data"
    initdb = [binaries / "initdb", "-D", data, "-U", "press", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **owner)  # type: ignore[call-overload]
    options = ["-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([binaries / "postgres", *options], cwd=folder, stdout=log, stderr=log, **owner)  # type: ignore[call-overload]
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60.0
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg://press@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30.0)
