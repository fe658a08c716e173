"""File lock of a study's journal, released when its process dies; a record that such a process left half-written is cut off."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock
from optuna.storages.journal import JournalFileSymlinkLock

_POLL_S = 0.005


class JournalLock(JournalFileSymlinkLock):
    """Held while a record is added; what a process that was killed had half written is cut off first.

    Optuna's own is a symbolic link, which outlives a killed process: the next waits half a minute for it, and for ever where the path
    is relative. This one goes with its process.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._lock = FileLock(journal.with_name(f".{journal.name}.lock"))

    def acquire(self) -> bool:
        """Wait for the lock and hold it."""
        self._lock.acquire(poll_interval=_POLL_S)
        _drop_torn_record(self._journal)
        return True

    def release(self) -> None:
        """Let go of it."""
        self._lock.release()


def _drop_torn_record(journal: Path) -> None:
    """Cut off what follows the last whole line: a full disk or a power loss ended its writing, and what is added would be unreadable."""
    with journal.open("rb+") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
