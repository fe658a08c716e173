"""A PostgreSQL server of this user on loopback, for benchmarks and tests of shared runs; needs Debian's postgresql."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback import free_port

# where Debian puts it, which is in nobody's PATH; elsewhere it is in the PATH
DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("postgres", "initdb", "pg_isready")
ACCOUNT = "postgres"
START_S = 60.0


def binaries() -> Path | None:
    """Return the folder of the newest server's programs, None if there is no server."""
    by_version = {int(path.name): path / "bin" for path in DEBIAN.glob("*") if path.name.isdigit()}
    found = shutil.which("postgres")
    places = [by_version[version] for version in sorted(by_version, reverse=True)] + ([Path(found).resolve().parent] if found else [])
    return next((place for place in places if all((place / name).is_file() for name in PROGRAMS)), None)


def missing() -> str:
    """Return "" if a server can be started here, else what to install."""
    if binaries() is None:
        return "a PostgreSQL server is not installed: apt-get install postgresql"
    if os.getuid() == 0 and not any(account.pw_name == ACCOUNT for account in pwd.getpwall()):
        return f"PostgreSQL does not run as root, and there is no account {ACCOUNT}: apt-get install postgresql, or be another user"
    return ""


class Database:
    """A server on a free port of the loopback, with its data in `folder`; it can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        assert not missing(), missing()
        found = binaries()
        assert found is not None
        self._folder, self._binaries = folder, found
        self._owner = {"user": ACCOUNT} if os.getuid() == 0 else {}  # the server refuses to be root
        if self._owner:
            account = pwd.getpwnam(ACCOUNT)
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
