"""An SSH server of this user on loopback, for benchmarks and tests of targets over SSH; needs Debian's openssh-server."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from loopback import free_port

CONFIG = """
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR={device}
"""
# where Debian and others put it, which is not in every user's PATH
PLACES = ("/usr/sbin", "/usr/local/sbin")
START_S = 60.0


def sshd() -> str | None:
    """Return the path of the server, None if there is none."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def missing() -> str:
    """Return "" if a server can be started here, else what to install."""
    return "" if sshd() and shutil.which("ssh-keygen") else "an SSH server is not installed: apt-get install openssh-server"


class SshServer:
    """A server on a free port, with its keys in `folder`: `user` may log in, `host` is its own, `known_hosts` has it.

    What its sessions put into their temporary folder lies in `device`. It can be stopped and started again.
    """

    def __init__(self, folder: Path) -> None:
        assert not missing(), missing()
        self.folder, self.device = folder, folder / "device"
        self.device.mkdir()
        self.port = free_port()
        for name in ("host", "user"):
            self.make_key(name)
        (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
        self.know("known_hosts", "host")
        (folder / "sshd_config").write_text(CONFIG.format(folder=folder, device=self.device))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation wants it
        self.start()

    def make_key(self, name: str) -> None:
        """Make a pair of keys in the folder."""
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)

    def know(self, file: str, key: str) -> None:
        """Write a file of known hosts that has a key for this server."""
        (self.folder / file).write_text(f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        server = sshd()
        assert server is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([server, "-D", "-e", "-f", self.folder / "sshd_config", "-p", str(self.port)], stderr=log)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline, "the SSH server did not answer"
            time.sleep(0.02)

    def sessions(self) -> list[psutil.Process]:
        """Return the processes of its connections."""
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if child.name().startswith("sshd")]

    def drop_connections(self) -> None:
        """Kill the processes of its connections."""
        for session in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()

    def stop(self) -> None:
        """End the server and its connections."""
        self.drop_connections()
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def loopback_target(folder: Path) -> Iterator[str]:
    """Yield the target spec of a server that runs inside the block; its device's Python is this one."""
    server = SshServer(folder)
    try:
        options = f"python={sys.executable}&key={folder}/user&known_hosts={folder}/known_hosts"
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}?{options}"
    finally:
        server.stop()
