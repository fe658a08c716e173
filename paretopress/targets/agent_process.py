"""The agent on a device, seen from the host: sent and started over SSH, asked, and ended."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import secrets
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretopress.core.untrusted_values import printable
from paretopress.errors import ConfigError, LatencyError, ParetopressError, TargetLostError
from paretopress.targets.ssh_address import SshAddress
from paretopress.targets.ssh_connection import connect
from paretopress.targets.wire_protocol import Frame, read_frame, write_frame

# What the host exports and quantises for: an older runtime refuses some files, and fuses others in another way.
RUNTIME_AT_LEAST = (1, 24)
# beyond any measurement (at most 6 minutes) that waits for another one on the device
_REPLY_TIMEOUT_S = 900.0
_CLOSE_TIMEOUT_S = 5.0
_SETTLE_S = 0.5
_LAST_WORDS_BYTES = 2**20

# One line of statements, so that every shell takes it; arguments: token of the folder, bytes of the archive that follows.
BOOTSTRAP = "; ".join(
    (
        "import atexit, os, shutil, sys, tempfile",
        "sys.version_info >= (3, 11) or sys.exit('Python %d.%d' % sys.version_info[:2])",
        "folder, size = os.path.join(tempfile.gettempdir(), 'paretopress-' + sys.argv[1]), int(sys.argv[2])",
        "os.mkdir(folder, 0o700)",
        "atexit.register(shutil.rmtree, folder, ignore_errors=True)",
        "os.environ['TMPDIR'] = folder",  # onnxruntime 1.31 leaves a file .ses in the temporary folder
        "import numpy, onnxruntime",
        "data, archive = sys.stdin.buffer.read(size), os.path.join(folder, 'agent.pyz')",
        "len(data) == size or sys.exit('a connection that ended while the agent was sent')",
        "file = open(archive, 'wb')",
        "file.write(data)",
        "file.close()",
        "sys.path.insert(0, archive)",
        "from paretopress.targets.agent import main",
        "main(folder)",
    )
)


@functools.cache
def agent_archive() -> bytes:
    """Return a zip file of the modules that the agent runs: this package's own, so that both ends measure alike."""
    package = Path(__file__).resolve().parents[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", strict_timestamps=False) as archive:
        archive.writestr("paretopress/__init__.py", "")  # the package's own imports torch
        values = (package / "errors.py", *(package / "core" / f"{name}.py" for name in ("__init__", "arrays", "outcome", "resampling")))
        for file in (*values, *sorted((package / "runtimes").glob("*.py")), *sorted((package / "targets").glob("*.py"))):
            archive.write(file, Path("paretopress", file.relative_to(package)))
    return buffer.getvalue()


class AgentProcess:
    """One agent. `files` are the hashes of what it holds; `token` names its folder."""

    def __init__(self, connection: Any, channel: Any, token: str, name: str) -> None:
        self.files: set[str] = set()
        self.token = token
        self._connection, self._channel, self._name = connection, channel, name
        self._replies = channel.makefile("rb")

    def ask(self, head: Mapping[str, Any], payload: bytes = b"") -> Frame:
        """Return the reply.

        Raises: TargetLostError: the connection broke, or nothing came in 15 minutes. LatencyError: the agent ended, the connection did not.
        """
        try:
            write_frame(self._channel.sendall, head, payload)
            reply = read_frame(self._replies)
        except TimeoutError as error:
            raise TargetLostError(f"the target must answer within {_REPLY_TIMEOUT_S:.0f} s, but got nothing at {self._name}") from error
        except Exception as error:  # of the socket or of paramiko, which have no base class in common
            raise self._broken(printable(error)) from error
        if reply is None:
            raise self._broken("the end of its replies")
        return reply

    def _broken(self, reason: str) -> ParetopressError:
        transport = self._connection.transport
        transport.join(_SETTLE_S)  # a dropped connection ends it at once; one that outlives this is alive
        if transport.is_active():
            hint = "Was it killed for want of memory? `dmesg` on the device tells."
            return LatencyError(f"the agent must live through its work, but it ended at {self._name}", hint)
        return TargetLostError(f"the connection must hold, but got: {reason} at {self._name}")

    def last_words(self) -> str:
        """Return the last line of what an ended agent wrote to standard error, or its exit status."""
        lines = self._channel.makefile_stderr("rb").read(_LAST_WORDS_BYTES).decode(errors="replace").strip().splitlines()
        return printable(lines[-1]) if lines else f"exit status {self._channel.recv_exit_status()}"

    def close(self) -> None:
        """End the agent, wait until its folder is gone, and close the connection."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.settimeout(_CLOSE_TIMEOUT_S)
            self._channel.shutdown_write()
            self._replies.read()
        self._connection.close()


def start_agent(address: SshAddress, remove: Sequence[str] = ()) -> AgentProcess:
    """Return a running agent on the device, which has removed the folders of the killed agents whose tokens are in `remove`.

    Raises: ConfigError: see `connect`; or Python, numpy or onnxruntime is missing there or too old. TargetLostError: out of reach.
    """
    with contextlib.ExitStack() as undo:
        connection = connect(address)
        undo.callback(connection.close)
        agent = _spawn(connection, address)
        try:
            reply, _ = agent.ask({"command": "environment", "remove": list(remove)})
        except LatencyError as error:
            raise ConfigError(
                f"the target must run the agent, but got: {agent.last_words()} at {address.name}",
                f"It needs Python 3.11, numpy and onnxruntime: `{address.python} -m pip install numpy onnxruntime` there, "
                "or name another interpreter with ?python=PATH.",
            ) from error
        _check_runtime(printable(reply.get("runtime")), address)
        undo.pop_all()
    return agent


def _spawn(connection: Any, address: SshAddress) -> AgentProcess:
    token, archive = secrets.token_hex(16), agent_archive()
    try:
        channel = connection.create_session()
        channel.settimeout(_REPLY_TIMEOUT_S)
        channel.exec_command("exec " + shlex.join((address.python, "-c", BOOTSTRAP, token, str(len(archive)))))
    except Exception as error:  # of the socket or of paramiko, which have no base class in common
        raise TargetLostError(f"the target must start a process, but got: {error} at {address.name}") from error
    with contextlib.suppress(OSError):  # a process that could not start takes nothing; its last words say why
        channel.sendall(archive)
    return AgentProcess(connection, channel, token, address.name)


def _check_runtime(version: str, address: SshAddress) -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < RUNTIME_AT_LEAST:
        least = ".".join(map(str, RUNTIME_AT_LEAST))
        raise ConfigError(
            f"onnxruntime on the target must be {least} or newer, but got {version} at {address.name}",
            f"`{address.python} -m pip install -U onnxruntime` there.",
        )
