"""An SSH server of this user on loopback, for benchmarks that measure over SSH; needs Debian's openssh-server."""

from __future__ import annotations

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

CONFIG = """
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


@contextmanager
def loopback_target(folder: Path) -> Iterator[str]:
    """Yield the target spec of a server that runs inside the block; its device's Python is this one."""
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if sshd is None:
        sys.exit("this benchmark needs an SSH server: apt-get install openssh-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation wants it
    server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        options = f"python={sys.executable}&key={folder}/user&known_hosts={folder}/known_hosts"
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}?{options}"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("the SSH server did not answer within 10 s")
