"""A PostgreSQL server of this user on loopback, for benchmarks and tests of shared runs; needs Debian's postgresql."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback import free_port

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
START_S = 60.0


class Database:
    """A server on a free port of the loopback, with its data in `folder`; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        assert SERVERS, "this needs a PostgreSQL server: apt-get install postgresql"
        self._folder, self._binaries = folder, SERVERS[-1].parent
        self._owner = {"user": "postgres"} if os.getuid() == 0 else {}  # the server refuses to be root
        if self._owner:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            for above in folder.parents:
                if above.stat().st_uid == 0 and above != Path("/") and above != Path("/tmp"):
                    above.chmod(above.stat().st_mode | 0o011)
        self._port = free_port()
        initdb = [self._binaries / "initdb", "-D", folder / "data", "-U", "press", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **self._owner)  # type: ignore[call-overload]
        self.url = f"postgresql+psycopg://press@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        server = [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self._port)]
        server += ["-k", self._folder, "-h", "127.0.0.1", "-F"]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(server, cwd=self._folder, stdout=log, stderr=log, **self._owner)  # type: ignore[call-overload]
        ready = [self._binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + START_S
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server at once; what is connected is cut off."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(30.0)


@contextmanager
def running_database(folder: Path) -> Iterator[Database]:
    """A server with its data in a new folder, for as long as the block lasts."""
    folder.mkdir()
    database = Database(folder)
    try:
        yield database
    finally:
        database.stop()
