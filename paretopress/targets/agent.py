"""The agent: the program that is sent to a device, and serves requests over its standard streams. Needs Python, numpy, onnxruntime.

All it keeps lies in one folder. It lives as long as its standard input: when the connection ends, so do the process, whatever it is
doing, and the folder.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from paretopress.errors import LatencyError, ParetopressError, first_line
from paretopress.runtimes.runtime import OpenFile, SessionSettings
from paretopress.targets.environment import environment
from paretopress.targets.file_facts import file_facts
from paretopress.targets.local import LocalTarget
from paretopress.targets.wire_protocol import Frame, pack_arrays, read_frame, unpack_arrays, write_frame

FOLDER_PREFIX = "paretopress-"
# a network that was cut without a word leaves the connection open for hours; the host starts another agent where it finds none
IDLE_S = 1800.0

Head = Mapping[str, Any]


class OpenFiles:
    """The files that are open here between two requests, by their hashes; before anything is measured they are all shut."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[OpenFile, ExitStack]] = {}

    def file(self, head: Head, place: Path) -> OpenFile:
        """Return the file that a request is about; one that is not open is opened: another agent had it open, and was lost."""
        sha256: str = head["candidate"]
        if sha256 not in self._files:
            with ExitStack() as stack:
                file = stack.enter_context(_target(head).opened(_file(place, sha256), beside_others=head["beside_others"]))
                self._files[sha256] = file, stack.pop_all()
        return self._files[sha256][0]

    def shut(self, sha256: str | None = None) -> None:
        """Shut one file, or all of them."""
        for name in [held for held in self._files if sha256 in (None, held)]:
            self._files.pop(name)[1].close()


def main(folder: str) -> NoReturn:
    """Answer requests until standard input ends or nothing came for half an hour, then remove `folder` and end the process."""
    place = Path(folder)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not stand between the replies
    requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    held = OpenFiles()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests, place), daemon=True).start()
    try:
        with contextlib.suppress(queue.Empty, BrokenPipeError):
            while True:
                head, payload = requests.get(timeout=IDLE_S)
                write_frame(replies.write, *answer(head, payload, place, held))
                replies.flush()
    finally:
        _end(place)


def _listen(stream: BinaryIO, requests: queue.SimpleQueue[Frame], place: Path) -> None:
    """Queue every request; the end of the stream ends the process, even in the middle of a measurement."""
    try:
        while (frame := read_frame(stream)) is not None:
            requests.put(frame)
    finally:
        _end(place)


def _end(place: Path) -> NoReturn:
    shutil.rmtree(place, ignore_errors=True)
    os._exit(0)  # the other thread may be inside the runtime, or hold standard input


def answer(head: Head, payload: bytes, place: Path, held: OpenFiles) -> Frame:
    """Return the reply to one request; what goes wrong is told as `error` and `hint`, and ends neither process nor connection."""
    command = head["command"]
    try:
        if command in _TIMED:
            held.shut()
        return _COMMANDS[command](head, payload, place, held)
    except ParetopressError as error:
        return {"error": error.message, "hint": error.hint}, b""
    except OSError as error:
        hint = "Free some room in its temporary folder, or have TMPDIR name another for this user."
        return {"error": f"the target must be able to keep files, but got {error.strerror} at {place}", "hint": hint}, b""
    except Exception as error:  # a reply lost would look like a connection lost
        return {"error": f"the target must carry out {command}, but got {type(error).__name__}: {first_line(error)}", "hint": ""}, b""


def _environment(head: Head, _: bytes, place: Path, __: OpenFiles) -> Frame:
    for token in head["remove"]:  # of agents that were killed
        shutil.rmtree(place.with_name(FOLDER_PREFIX + token), ignore_errors=True)
    return {"environment": environment(), "runtime": ort.__version__}, b""


def _put(head: Head, payload: bytes, place: Path, _: OpenFiles) -> Frame:
    """Keep a file, and of those before it the ones that are still needed."""
    for old in place.glob("*.onnx"):
        if old.stem not in head["keep"]:
            old.unlink()
    path = place / f"{head['sha256']}.onnx"
    try:
        path.write_bytes(payload)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return {}, b""


def _measure(head: Head, payload: bytes, place: Path, _: OpenFiles) -> Frame:
    latency = _target(head).measure(
        _file(place, head["candidate"]),
        _file(place, head["reference"]),
        baseline_ms=head["baseline_ms"],
        limit_ms=head["limit_ms"],
        feed=_feed(head, payload),
        rng=np.random.default_rng(head["seed"]),
    )
    return {"latency": latency.to_json()}, b""


def _measure_baseline(head: Head, payload: bytes, place: Path, _: OpenFiles) -> Frame:
    path, rng = _file(place, head["candidate"]), np.random.default_rng(head["seed"])
    return {"latency": _target(head).measure_baseline(path, feed=_feed(head, payload), rng=rng).to_json()}, b""


def _run(head: Head, payload: bytes, place: Path, _: OpenFiles) -> Frame:
    return {}, pack_arrays(_target(head).run(_file(place, head["candidate"]), _feed(head, payload)))


def _open(head: Head, _: bytes, place: Path, held: OpenFiles) -> Frame:
    """Keep a file open until it is shut, and tell its inputs."""
    return {"inputs": [[name, list(shape)] for name, shape in held.file(head, place).inputs]}, b""


def _feed_open(head: Head, payload: bytes, place: Path, held: OpenFiles) -> Frame:
    return {}, pack_arrays(held.file(head, place).run(_feed(head, payload)))


def _shut(head: Head, _: bytes, __: Path, held: OpenFiles) -> Frame:
    held.shut(head["candidate"])
    return {}, b""


def _target(head: Head) -> LocalTarget:
    fields, settings = head["target"], head["target"]["settings"]
    return LocalTarget(**fields | {"settings": SessionSettings(**settings | {"cores": tuple(settings["cores"])})})


def _feed(head: Head, payload: bytes) -> dict[str, npt.NDArray[Any]]:
    return dict(zip(head["inputs"], unpack_arrays(payload), strict=True))


def _file(place: Path, sha256: str) -> Path:
    """Return a file that was put; the host reads its own name for the hash in errors."""
    path = place / f"{sha256}.onnx"
    found = file_facts(path)[1]
    if found != sha256:
        raise LatencyError(f"a file must lie on the target as it was sent, but got sha256={found} at {path.name}")
    return path


_COMMANDS: dict[str, Callable[[Head, bytes, Path, OpenFiles], Frame]] = {
    "environment": _environment,
    "put": _put,
    "measure": _measure,
    "measure_baseline": _measure_baseline,
    "run": _run,
    "open": _open,
    "feed": _feed_open,
    "shut": _shut,
}
_TIMED = ("measure", "measure_baseline")
