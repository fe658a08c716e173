"""One measurement at a time on a machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_file() -> Path:
    """Return the file that this user's measurements on this machine lock."""
    return Path(tempfile.gettempdir(), f"paretopress-{os.getuid()}.lock")


@contextmanager
def sole_measurement() -> Iterator[None]:
    """Hold this machine for a measurement; waits while another process of this user measures here.

    The machine that is timed holds the lock, not the one that asks: a worker here, an agent of this host and one of another exclude
    each other. It is flock and not filelock, because a device has only numpy and onnxruntime.
    Invariant: the kernel lets go of the lock when the process ends, however it ends.
    """
    descriptor = os.open(lock_file(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
