from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from paretopress.search.storage.journal_lock import JournalLock

HOLDER = """
import sys, time
from pathlib import Path
from paretopress.search.storage.journal_lock import JournalLock
lock = JournalLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""
WHOLE = b'{"op_code": 0}\n'


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/journal.log").write_bytes(WHOLE)
    return Path("run/journal.log")  # relative, as a user types it


def waited(journal: Path) -> float:
    """Return the seconds that it took to get the lock."""
    started, lock = time.monotonic(), JournalLock(journal)
    assert lock.acquire()
    lock.release()
    return time.monotonic() - started


def held(journal: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Return a process that holds the lock and ends after some seconds."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(journal), str(seconds)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_acquire_holds_the_lock_at_once_when_its_holder_was_killed(journal: Path) -> None:
    with held(journal, 60.0) as holder:
        holder.kill()
        holder.wait()
        assert waited(journal) < 1.0


def test_acquire_waits_when_another_process_holds_the_lock(journal: Path) -> None:
    with held(journal, 1.0):
        assert waited(journal) > 0.5


def test_acquire_cuts_off_what_was_half_written(journal: Path) -> None:
    journal.write_bytes(WHOLE + b'{"op_code": 4, "trial')
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_bytes() == WHOLE


@pytest.mark.parametrize("content", [b"", WHOLE])
def test_acquire_changes_nothing_when_the_journal_is_whole(journal: Path, content: bytes) -> None:
    journal.write_bytes(content)
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_bytes() == content
