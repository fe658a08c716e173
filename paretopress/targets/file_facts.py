"""Size and identity of a file; a file that has not changed since is not read again."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

CHUNK_BYTES = 1 << 20
_REMEMBERED = 512
# A file system stamps a change with the clock of its last tick: Linux ticks every 1 to 10 ms, FAT and HFS+ count in seconds. What was
# changed within one tick of being read could change again under the same stamp, so it is read again the next time.
_FINE_TICK_NS, _COARSE_TICK_NS = 20_000_000, 2_000_000_000
_NS_PER_MS = 1_000_000

_State = tuple[int, int, int, int, int]
_KNOWN: dict[Path, tuple[_State, tuple[int, str]]] = {}


def file_facts(path: Path) -> tuple[int, str]:
    """Return (size_bytes, sha256 in hex) of one pass over the file, so that both describe the same bytes.

    The result is remembered for as long as device, inode, size and times of change of the file stay what they are.
    Raises: OSError: the file cannot be read.
    """
    where = path.resolve()
    before = _state(where)
    known = _KNOWN.get(where)
    if known is not None and known[0] == before:
        return known[1]
    fresh = _may_change_unseen(before)
    facts = _read(where)
    if not fresh and _state(where) == before:
        while len(_KNOWN) >= _REMEMBERED:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        _KNOWN[where] = before, facts
    return facts


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _may_change_unseen(state: _State) -> bool:
    changed_ns = max(state[3:])
    fine = any(stamp % _NS_PER_MS for stamp in state[3:])
    return time.time_ns() - changed_ns < (_FINE_TICK_NS if fine else _COARSE_TICK_NS)


def _read(path: Path) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()
