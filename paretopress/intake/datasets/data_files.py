"""Find and hash the files that a data set names in its attributes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch import Tensor

from paretopress.system.content_hash import Contents, joined

# files of so much together are read; of more, sizes and times of modification stand for the bytes
READ_UP_TO_BYTES = 1 << 30
_MOST_IN_A_FOLDER = 200_000
_LONGEST_PATH = 4096
_LONG = 1_000


class NamedFiles(Contents):
    """Hashes values, with the files that texts and paths in them name; a path counts by what lies there, not by where that is.

    `earlier` hashed the same values before: arrays and long lists are not read again.

    Attributes:
        files: absolute path -> its place in the order in which they were met. folders: the same of folders.
        array_items: how many numbers the largest array or tensor holds.
    """

    def __init__(self, earlier: NamedFiles | None = None) -> None:
        super().__init__()
        self.files: dict[str, int] = {}
        self.folders: dict[str, int] = {}
        self.array_items = 0
        self._arrays: dict[int, tuple[object, bytes]] = {} if earlier is None else earlier._arrays
        self._lists: dict[int, tuple[object, int, bytes]] = {} if earlier is None else earlier._lists

    def held(self, value: object) -> bytes:
        """Return the hash of a value that is met for the first time."""
        if isinstance(value, PurePath):
            return self.path(str(value))
        return super().held(value)

    def tensor(self, value: Tensor) -> bytes:
        """Return the hash of a tensor."""
        self.array_items = max(self.array_items, value.numel())
        if id(value) not in self._arrays:
            self._arrays[id(value)] = value, super().tensor(value)
        return self._arrays[id(value)][1]

    def array(self, value: np.ndarray[Any, Any]) -> bytes:
        """Return the hash of an array; one that maps a file is the file."""
        if isinstance(value, np.memmap) and value.filename is not None:
            return joined(b"mapped", f"{value.dtype.descr} {value.shape} {value.offset}".encode(), self.path(str(value.filename)))
        self.array_items = max(self.array_items, value.size)
        if value.dtype.hasobject:
            return super().array(value)
        if id(value) not in self._arrays:
            self._arrays[id(value)] = value, super().array(value)
        return self._arrays[id(value)][1]

    def text(self, value: str) -> bytes:
        """Return the hash of a text, or what stands for the file or folder that it names."""
        return self.path(value) if os.sep in value else super().text(value)

    def sequence(self, value: Collection[object]) -> bytes:
        """Return the hash of values in their order; a long list that is as long as it was earlier is not looked through again."""
        if len(value) < _LONG:
            return super().sequence(value)
        if id(value) not in self._lists or self._lists[id(value)][1] != len(value):
            self._lists[id(value)] = value, len(value), super().sequence(value)
        return self._lists[id(value)][2]

    def texts(self, values: Collection[Any]) -> bytes:
        """Return the hash of texts in their order, of which any may name a file."""
        if not any(os.sep in value for value in values):
            return super().texts(values)
        return joined(*(self.text(value) for value in values))

    def path(self, text: str) -> bytes:
        """Return what stands for the file or folder of a name; the hash of the text where there is none."""
        if not 0 < len(text) < _LONGEST_PATH or "\n" in text or "\0" in text:
            return super().text(text)
        try:
            mode = os.stat(text).st_mode  # one look at each of a million names
        except OSError:
            return super().text(text)
        if stat.S_ISREG(mode):
            return joined(b"file", str(self.files.setdefault(os.path.abspath(text), len(self.files))).encode())
        if stat.S_ISDIR(mode):
            return joined(b"folder", str(self.folders.setdefault(os.path.abspath(text), len(self.folders))).encode())
        return super().text(text)


def files_sha256(paths: Collection[str]) -> str:
    """Return a hash of files: their names below the folder that holds them all, sizes and bytes.

    Where they are larger than 1 GiB together, their times of modification stand for the bytes, which would take minutes to read.
    """
    facts = {path: os.stat(path) for path in paths}
    read = sum(fact.st_size for fact in facts.values()) <= READ_UP_TO_BYTES
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    digest = hashlib.sha256()
    for path, fact in facts.items():
        digest.update(
            f"{os.path.relpath(path, common)}\0{fact.st_size}\0{'' if read else fact.st_mtime_ns}\0".encode(errors="surrogatepass")
        )
        if read:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def files_below(folder: str) -> list[str] | None:
    """Return the files below a folder in the order of their names, hidden ones left out.

    None where they are too many, or the folder holds more than data: it is the one that this program works in, or holds that one.
    """
    if Path.cwd().is_relative_to(os.path.realpath(folder)):
        return None
    found: list[str] = []
    for path in _walked(folder):
        found.append(path)
        if len(found) > _MOST_IN_A_FOLDER:
            return None
    return found


def _walked(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names) if not name.startswith("."))
