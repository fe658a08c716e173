"""Record the elapsed time of a run in a file, at most two seconds behind when the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paretopress.system.periodic import periodically

_EVERY_S = 2.0


def recorded_elapsed_s(path: Path) -> float:
    """Return the seconds that were noted last; 0 where there is no such file, or none that can be read."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0


@contextmanager
def recording_elapsed(path: Path, seconds: Callable[[], float], every_s: float = _EVERY_S) -> Iterator[None]:
    """Write `seconds()` to the file every two seconds, and at the end; a full disk is no reason to stop."""

    def note() -> None:
        beside = path.with_name(f".{path.name}.part")
        with suppress(OSError):
            beside.write_text(f"{seconds():.1f}\n")
            os.replace(beside, path)

    try:
        with periodically(note, every_s):
            yield
    finally:
        note()
