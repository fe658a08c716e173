"""A disk cache shared by runs: folders named by a hash of all that their content depends on."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from paretopress.errors import RunError, typed_line

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

_PARTS = "parts.json"


def cache_root() -> Path:
    """Return $XDG_CACHE_HOME/paretopress, or the same under ~/.cache.

    Source: XDG Base Directory Specification 0.8; a relative $XDG_CACHE_HOME is to be ignored.
    """
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (asked if asked.is_absolute() else Path.home() / ".cache") / "paretopress"


@functools.cache
def code_version() -> str:
    """Return 16 hex digits that name the content of this package's sources."""
    return sources_sha256("")[:16]


def sources_sha256(*rooms: str) -> str:
    """Return the hash of the sources in some rooms of this package, named by their paths in it; "" is all of it."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(path for room in rooms for path in (package / room).rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the cache: its kind, where it lies, what it takes, and when it was used last (seconds since 1970)."""

    kind: str
    place: Path
    size_bytes: int
    used_at: float


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of folders. Without it everything is computed again: so where it cannot be read or written, nothing is said.

    What is damaged counts as absent: a line in the log says so, it is removed, and what is computed then takes its place.

    `common` is part of every key: what all that is kept here depends on.
    """

    root: Path
    common: Mapping[str, Any]

    def get(self, kind: str, parts: Mapping[str, Any]) -> Path | None:
        """Return the folder that was kept for these JSON values, None if there is none."""
        place = self._place(kind, parts)
        if not (place / _PARTS).is_file():
            return None
        with suppress(OSError):
            os.utime(place)
        return place

    def read(self, kind: str, parts: Mapping[str, Any], read: Callable[[Path], T]) -> T | None:
        """Return what `read` makes of the folder that was kept for these JSON values; None if there is none, or it is damaged."""
        place = self.get(kind, parts)
        if place is None:
            return None
        try:
            return read(place)
        except Exception as error:  # whatever a damaged file, or one that another process prunes at this moment, makes a reader raise
            if (place / _PARTS).is_file():
                _LOG.warning("the cache's %s is damaged, and is made again: %s", place, typed_line(error))
                _remove(place)
            return None

    def put(self, kind: str, parts: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Have `write` fill a folder, and keep it for these JSON values: whole, or not at all. What is kept already is left."""
        place = self._place(kind, parts)
        if (place / _PARTS).is_file():
            return
        _remove(place)  # a folder without it was not kept whole
        part = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
        try:
            part.mkdir(parents=True)
            write(part)
            (part / _PARTS).write_text(_text({**self.common, **parts}))
            part.rename(place)  # fails where another process was quicker: what it keeps is the same
        except (OSError, RunError):  # the disk is full, or not ours to write
            pass
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _place(self, kind: str, parts: Mapping[str, Any]) -> Path:
        return self.root / kind / hashlib.sha256(_text({**self.common, **parts}).encode()).hexdigest()[:32]


def _remove(place: Path) -> None:
    """Remove a folder: from its name at once, so that another process finds it whole or not at all."""
    aside = place.with_name(f".{place.name}.{uuid.uuid4().hex}.damaged")
    with suppress(OSError):
        place.rename(aside)
        if aside.is_file():
            aside.unlink()
    shutil.rmtree(aside, ignore_errors=True)


def _text(parts: Mapping[str, Any]) -> str:
    return json.dumps(parts, sort_keys=True, indent=1)


def entries(root: Path) -> list[Entry]:
    """Return all that a cache holds, the least recently used first."""
    found = []
    for parts in root.glob(f"*/*/{_PARTS}"):
        place = parts.parent
        with suppress(OSError):  # another process prunes it at this moment
            size = sum(file.stat().st_size for file in place.iterdir())
            found.append(Entry(place.parent.name, place, size, place.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used_at)


def prune(root: Path, most_bytes: int) -> list[Entry]:
    """Remove what was not used for longest until the rest takes at most `most_bytes`; return what was removed."""
    held = entries(root)
    left, removed = sum(entry.size_bytes for entry in held), []
    for entry in held:
        if left <= most_bytes:
            break
        shutil.rmtree(entry.place, ignore_errors=True)
        left -= entry.size_bytes
        removed.append(entry)
    return removed
