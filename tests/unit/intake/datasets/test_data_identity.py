"""What names data: all labels, the raw items and their files; nothing that augmentation draws."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from paretopress.intake.datasets import data_files, data_identity
from paretopress.intake.datasets.data import Data
from paretopress.intake.datasets.data import data_identity as named
from paretopress.intake.datasets.data_identity import ITEMS, LABELS
from paretopress.intake.datasets.images import Augmentation, Images, Normalisation

COUNT = 5_000


class Made(Dataset[Any]):
    """Items that are computed when they are read; attributes are what is given."""

    def __init__(self, count: int = COUNT, **given: Any) -> None:
        self.count = count
        vars(self).update(given)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 2, 2), float(index)), index % 3


class Relabelled(Made):
    """Tells no labels: some are others."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(index)
        return x, (y + 1) % 3 if index in self.bad else y


class Drawing(Made):
    """Adds noise that the given function draws."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(index)
        return x + float(self.draw()), y


class Keeping(Made):
    """Keeps what it has read."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.kept[index] = index
        return super().__getitem__(index)


def of(train: Dataset[Any]) -> dict[str, str]:
    return named(Data(train, Made(8), Made(8)), 0)


def pixels(changed: int | None = None) -> Tensor:
    found = torch.arange(COUNT * 4, dtype=torch.float32).reshape(COUNT, 1, 2, 2)
    if changed is not None:
        found[changed, 0, 1, 1] += 1.0
    return found


def labels(changed: int | None = None) -> Tensor:
    found = torch.arange(COUNT) % 3
    if changed is not None:
        found[changed] = (found[changed] + 1) % 3
    return found


def images(x: Tensor, y: Tensor, mean: float = 0.0) -> Images:
    return Images(x, y, Normalisation(1.0, (mean,), (1.0,)), augmentation=Augmentation(shift=1, flip=0.5))


PAIRS: dict[str, Callable[[int | None], Dataset[Any]]] = {
    "a label that a tensor data set holds": lambda at: TensorDataset(pixels(), labels(at)),
    "a pixel that a tensor data set holds": lambda at: TensorDataset(pixels(at), labels()),
    "a label that is told": lambda at: images(pixels(), labels(at)),
    "a pixel": lambda at: images(pixels(at), labels()),
    "a pixel in an array": lambda at: Made(data=pixels(at).numpy()),
    "a label that only reading shows": lambda at: Relabelled(bad={at, 7}),
    "a pixel inside a subset": lambda at: Subset(images(pixels(at), labels()), range(10, COUNT)),
    "an index of a subset": lambda at: Subset(images(pixels(), labels()), [5, 6, at or 0]),
    "a pixel inside joined sets": lambda at: ConcatDataset([Made(8), images(pixels(at), labels())]),
    "a constant of a transform": lambda at: images(pixels(), labels(), mean=float(at or 0)),
}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS.keys())
def test_data_identity_differs_when_one_value_of_thousands_does(make: Callable[[int | None], Dataset[Any]]) -> None:
    before = of(make(None))
    assert of(make(None)) == before
    assert of(make(COUNT - 17)) != before


def test_data_identity_says_that_labels_differ_when_they_do() -> None:
    one, two, three = (of(images(*parts)) for parts in ((pixels(), labels()), (pixels(), labels(9)), (pixels(9), labels())))
    assert one[LABELS] != two[LABELS]
    assert one[LABELS] == three[LABELS]
    assert one[ITEMS] != three[ITEMS]


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), np.random.rand, random.random, np.random.default_rng().random], ids=["torch", "numpy", "python", "own"]
)
def test_data_identity_is_the_same_when_augmentation_draws(draw: Callable[[], float]) -> None:
    split = Drawing(draw=draw)
    before = of(split)
    draw()
    assert of(split) == before
    owns = isinstance(getattr(draw, "__self__", None), np.random.Generator)
    assert ("items of train differ when they are read again" in before[ITEMS]) == owns


def test_data_identity_leaves_the_global_generators_as_they_were() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = (random.random(), np.random.rand(), float(torch.rand(())))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    of(Drawing(draw=lambda: np.random.rand() + random.random() + torch.rand(())))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


def test_data_identity_is_the_same_when_reading_fills_a_cache() -> None:
    split = Keeping(kept={})
    before = of(split)
    assert split.kept
    partly = Keeping(kept={})
    assert partly[3]
    assert of(partly) == before


class FromFolder(Made):
    """Reads a file an item from a folder."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 2, 2), float((Path(self.root) / f"{index:03}.txt").read_text())), 0


def folder(root: Path, changed: int | None = None) -> Path:
    root.mkdir()
    for index in range(100):
        (root / f"{index:03}.txt").write_text(str(index + 100 if index != changed else 500))
    return root


def test_data_identity_covers_all_files_of_a_folder_wherever_it_lies(tmp_path: Path) -> None:
    one, copied, changed = (
        of(FromFolder(100, root=str(folder(tmp_path / name, at)))) for name, at in (("one", None), ("copied", None), ("changed", 41))
    )
    assert one == copied
    assert one != changed


def test_data_identity_covers_files_that_are_named_one_by_one(tmp_path: Path) -> None:
    def split(root: Path, at: int | None) -> Made:
        folder(root, at)
        return Made(100, samples=[(str(path), 0) for path in sorted(root.iterdir())])

    one, copied, changed = (of(split(tmp_path / name, at)) for name, at in (("a", None), ("b", None), ("c", 41)))
    assert one == copied
    assert one != changed


def test_data_identity_goes_by_times_when_files_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "READ_UP_TO_BYTES", 10)
    root = folder(tmp_path / "data")
    before = of(FromFolder(100, root=str(root)))
    assert of(FromFolder(100, root=str(root))) == before
    os.utime(root / "041.txt", (1.0, 1.0))
    assert of(FromFolder(100, root=str(root))) != before


class Opaque:
    """Cannot be looked into, as a handle of a C library."""

    __module__ = "torch.opaque"

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError


def test_data_identity_reads_more_when_data_cannot_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_identity, "_ITEMS_UNSEEN", 300)
    found = of(Made(1_000, handle=Opaque()))
    assert "300 of 1000 items of train read, because torch.opaque.Opaque cannot be looked into" in found[ITEMS]


def test_data_identity_says_when_the_folder_is_the_working_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "data")
    (tmp_path / "data" / "log").write_text("1")
    monkeypatch.chdir(root)
    monkeypatch.setattr(data_identity, "_ITEMS_UNSEEN", 50)
    before = of(FromFolder(100, root=str(root)))
    assert "50 of 100 items of train read, because the folder" in before[ITEMS]
    (root / "log").write_text("2")
    assert of(FromFolder(100, root=str(root))) == before
