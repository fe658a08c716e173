"""Identity of a run's data: hashes of every label and of the raw items or their files; augmentation is no part of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from paretopress.core.model_inputs import tensors
from paretopress.intake.datasets.data_files import NamedFiles, files_below, files_sha256
from paretopress.system.batch_loading import Item, collate, load_items
from paretopress.system.content_hash import Contents, attributes, is_installed, joined
from paretopress.system.seeding import seeded

LABELS, ITEMS = "data labels", "data items"
# items that are read of every split; and of one whose content could not be looked into
_ITEMS, _ITEMS_UNSEEN = 32, 4096
_AT_A_TIME = 64
# an array of fewer numbers is a mean, or a table of classes
_NO_DATA = 1_000
# attributes of which the text names a file or a folder although there is no slash in it
_NAMES_A_PLACE = ("root", "dir", "path", "folder", "file")

Split = Dataset[Item]


def data_parts(splits: Mapping[str, Split], labels: Mapping[str, Tensor | None], seed: int) -> dict[str, str]:
    """Return the hashes of all labels and of all items, the same in every process, whatever augmentation draws.

    Labels that a split tells without reading items are hashed as such. The items are what the splits hold: the arrays and texts in their
    attributes, the code of their classes and of their transforms, and the files that they name. Some items are read beside that, under
    seeds of torch's, numpy's and Python's generators, and read again: where the two differ, something else draws, and they are left
    out. So are attributes that reading changed. What could not be looked into is said in words behind the hash; more items are read then.

    Args: labels: (N,) of the splits that tell theirs. seed: draws the items that are read.
    """
    before = _Held(splits)
    files, unseen = before.found()
    read: list[bytes] = []
    remarks: list[str] = []
    for name, split in splits.items():
        size: int = len(split)  # type: ignore[arg-type]  # Dataset declares no length
        drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()[: _ITEMS_UNSEEN if unseen else _ITEMS]
        found = [str(size).encode(), *_read(split, drawn)]
        if found[1:2] != _read(split, drawn[:_AT_A_TIME]):
            remarks.append(f"items of {name} differ when they are read again")
            found = found[:1]
        elif unseen and size > _ITEMS_UNSEEN:
            remarks.append(f"{_ITEMS_UNSEEN} of {size} items of {name} read, because {' and '.join(unseen)} cannot be looked into")
        read.append(joined(*found))
    held = before.unchanged(_Held(splits, before.contents))
    untold = [name for name, value in labels.items() if value is None]
    told = joined(*(b"" if value is None else before.contents.tensor(value) for value in labels.values()))
    return {
        LABELS: told.hex() + (f" (those of {', '.join(untold)} are among the items)" if untold else ""),
        ITEMS: joined(held, files_sha256(files).encode(), *read).hex() + (f" ({'; '.join(remarks)})" if remarks else ""),
    }


class _Held:
    """What splits hold, attribute by attribute; `earlier` is what hashed them before."""

    def __init__(self, splits: Mapping[str, Split], earlier: NamedFiles | None = None) -> None:
        self.contents = NamedFiles(earlier)
        self.parts: dict[str, bytes] = {}
        self._spare: list[str] = []
        for name, split in splits.items():
            self._take(name, split)
        self.contents.settle()
        self.parts |= {f"global {name}": held for name, held in self.contents.globals.items()}

    def _take(self, path: str, split: object) -> None:
        """Hash the class and the attributes of a data set, and those of the data sets inside of it."""
        self.parts[path] = self.contents.digest(type(split))
        installed = is_installed(type(split).__module__)
        for name, value in attributes(split).items():
            below = f"{path}.{name}"
            if isinstance(value, Dataset):
                self._take(below, value)
            elif isinstance(split, ConcatDataset) and name == "datasets":
                for index, part in enumerate(split.datasets):
                    self._take(f"{below}.{index}", part)
            elif isinstance(split, Subset) and name == "indices":
                self.parts[below] = joined(repr([int(index) for index in split.indices]).encode())
            elif isinstance(value, str) and any(word in name.lower() for word in _NAMES_A_PLACE):
                if installed and os.path.isdir(value):  # torchvision keeps beside what it read the folder in which all its data sets lie
                    self._spare.append(os.path.abspath(value))
                else:
                    self.parts[below] = self.contents.path(value)
            else:
                self.parts[below] = self.contents.digest(value)

    def found(self) -> tuple[list[str], list[str]]:
        """Return the files that the splits name or that lie in the folders that they name, and what could not be looked into."""
        contents = self.contents
        files, unseen = dict.fromkeys(contents.files), list(contents.unseen)
        bare = not files and contents.array_items < _NO_DATA
        for folder in dict.fromkeys([*contents.folders, *(self._spare if bare else ())]):
            if any(file.startswith(folder + os.sep) for file in contents.files):
                continue  # it is where the files lie that are named one by one
            below = files_below(folder)
            if below is None:
                unseen.append(f"the folder {folder}")
            files |= dict.fromkeys(below or ())
        return list(files), unseen

    def unchanged(self, later: _Held) -> bytes:
        """Return the hash of the parts that are the same later: a cache that reading fills is none of them."""
        return joined(*(joined(name.encode(), held) for name, held in sorted(self.parts.items()) if later.parts.get(name) == held))


def _read(split: Split, indices: Sequence[int]) -> list[bytes]:
    """Return the hashes of batches of items, each batch read under a seed of its own."""
    digests = []
    for start in range(0, len(indices), _AT_A_TIME):
        with seeded(start):
            x, y = collate(load_items(split, indices[start : start + _AT_A_TIME]))
        digests.append(joined(*(Contents().tensor(part) for part in (*tensors(x), y))))
    return digests
