"""Batches of a validation or test split as arrays, decoded once and kept in memory or on disk where they fit."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paretopress.core.arrays import Batch
from paretopress.core.model_inputs import arrays
from paretopress.intake.datasets.data import Split, batch
from paretopress.system.arrays_on_disk import ArraysOnDisk
from paretopress.system.seeding import seeded

BATCH_ITEMS = 128
MEMORY_BYTES = 1 << 30  # what one split may take in memory


@dataclass(slots=True)
class _Decoded:
    """What was read of a split: its first batch, and all of them where they are kept; `too_large` if they cannot be."""

    first: Batch | None = None
    batches: list[Batch] | None = None
    too_large: bool = False


# id of a split -> number of items -> what was read of them, for as long as the split lives
_SHARED: dict[int, dict[int, _Decoded]] = {}


def forget(split: Split) -> None:
    """Let go of what was read of a split; it is read again when it is needed again."""
    if id(split) in _SHARED:
        _SHARED[id(split)].clear()


class Batches:
    """The batches of the first `size` items of a split whose items are the same each time they are read.

    All who go through the same split object share what was read: up to 1 GiB in memory, else up to 8 GiB in a nameless file in `folder`.
    What is larger is read again by each who goes through it.
    """

    def __init__(self, split: Split, size: int, folder: Path | None = None) -> None:
        self._split, self._size, self._folder = split, size, folder
        self._by_size = _shared(split)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._decoded.batches or ()) if self.kept() else self._all()

    def kept(self) -> bool:
        """Return whether the batches are kept; they are read for that if they may be and nobody did."""
        decoded = self._decoded
        if decoded.batches is None and not decoded.too_large:
            size_bytes = self._size_bytes()
            decoded.batches = list(self._all()) if size_bytes <= MEMORY_BYTES else self._on_disk(size_bytes)
            if decoded.batches is None:
                decoded.too_large = True
            else:
                decoded.first = None
        return decoded.batches is not None

    @property
    def _decoded(self) -> _Decoded:
        return self._by_size.setdefault(self._size, _Decoded())

    def _size_bytes(self) -> int:
        """Return what all items take, by those of the first batch."""
        inputs, labels = self._first()
        return sum(part.nbytes for part in (*inputs, labels)) * self._size // max(len(labels), 1)

    def _first(self) -> Batch:
        decoded = self._decoded
        if decoded.first is None:
            decoded.first = self._read(0)
        return decoded.first

    def _all(self) -> Iterator[Batch]:
        """Read batch after batch; the first, by which the size of all was told, is not read again."""
        yield self._first()
        for start in range(BATCH_ITEMS, self._size, BATCH_ITEMS):
            yield self._read(start)

    def _read(self, start: int) -> Batch:
        with seeded(start):  # a split that draws nevertheless shows the same items at every reading
            x, y = batch(self._split, range(start, min(start + BATCH_ITEMS, self._size)))
        return arrays(x), y.numpy()

    def _on_disk(self, size_bytes: int) -> list[Batch] | None:
        """Return the batches as arrays in a file that ends with them; None if it would be too large, or cannot be written."""
        disk = ArraysOnDisk(self._folder)
        if not disk.takes(size_bytes):
            return None
        kept: list[Batch] = []
        for inputs, labels in self._all():
            written = disk.take(inputs)
            if written is None:  # the items are read again then
                return None
            kept.append((written, labels))
        return kept


def _shared(split: Split) -> dict[int, _Decoded]:
    """Return what is shared of a split; of one that cannot be referred to weakly, such as a list, nothing is."""
    if id(split) not in _SHARED:
        try:
            weakref.finalize(split, _SHARED.pop, id(split), None).atexit = False
        except TypeError:
            return {}
        _SHARED[id(split)] = {}
    return _SHARED[id(split)]
