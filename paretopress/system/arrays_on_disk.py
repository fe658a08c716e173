"""Arrays in a file without a name, in place of memory; they are read from there when they are used."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# what may lie in one file; it never takes more than a quarter of what is free
DISK_BYTES, DISK_SHARE = 8 << 30, 0.25
_ALIGNED = 64


class ArraysOnDisk:
    """Keeps arrays in a file of a folder, which ends with this object; without a folder it keeps none."""

    def __init__(self, folder: Path | None, most_bytes: int | None = None) -> None:
        self._file: IO[bytes] | None = None
        self._left_bytes = 0
        if folder is None:
            return
        try:
            free = shutil.disk_usage(folder).free
            self._left_bytes = int(min(DISK_BYTES if most_bytes is None else most_bytes, DISK_SHARE * free))
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as this object
            weakref.finalize(self, self._file.close)  # arrays that were handed out stay mapped
        except OSError:  # the folder is not there, or not ours to write
            self._left_bytes = 0

    def takes(self, size_bytes: int) -> bool:
        """Return whether there is room for so many bytes."""
        return self._file is not None and size_bytes <= self._left_bytes

    def take(self, arrays: Sequence[Array]) -> tuple[Array, ...] | None:
        """Return the arrays as they lie in the file, None where there is no room for them, or the file cannot be written.

        Each is a copy on write: nobody sees what another changed, and torch takes no array that is read-only.
        """
        size_bytes = sum(part.nbytes + _ALIGNED for part in arrays)
        if self._file is None or not self.takes(size_bytes):
            return None
        try:
            places = []
            for part in arrays:
                self._file.seek(0, 2)
                self._file.write(bytes(-self._file.tell() % _ALIGNED))
                places.append(self._file.tell())
                self._file.write(np.ascontiguousarray(part).data)
            self._file.flush()
            kept = tuple(
                np.asarray(np.memmap(self._file, part.dtype, "c", place, part.shape)) if part.size else part
                for part, place in zip(arrays, places, strict=True)
            )
        except OSError:  # the disk is full, or there are too many maps
            self._left_bytes = 0
            return None
        self._left_bytes -= size_bytes
        return kept
