"""One measurement at a time on a machine, and no training beside it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def lock_file(name: str = "measuring") -> Path:
    """Return a file that this user's measurements on this machine lock."""
    return Path(tempfile.gettempdir(), f"paretopress-{os.getuid()}-{name}.lock")


@contextmanager
def sole_measurement() -> Iterator[None]:
    """Hold this machine for a measurement; waits while another process of this user measures, or finishes a step of training.

    The machine that is timed holds the lock, not the one that asks: a worker here, an agent of this host and one of another exclude
    each other. It is flock and not filelock, because a device has only numpy and onnxruntime.
    Invariant: the kernel lets go of the lock when the process ends, however it ends.
    """
    with ExitStack() as held:
        held.enter_context(_flocked(lock_file("gate"), fcntl.LOCK_EX))
        held.enter_context(_flocked(lock_file(), fcntl.LOCK_EX))
        yield


@contextmanager
def no_measurement() -> Iterator[None]:
    """Run a step of heavy work while nothing is measured on this machine; many processes can do so at once.

    Each step passes a gate that a waiting measurement shuts, so that steps that follow one another closely cannot keep it waiting.
    """
    with ExitStack() as held:
        with _flocked(lock_file("gate"), fcntl.LOCK_SH):
            held.enter_context(_flocked(lock_file(), fcntl.LOCK_SH))
        yield


@contextmanager
def _flocked(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
