"""How often the items of a split are read while it is gone through."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from paretopress.intake.datasets import batches as module
from paretopress.intake.datasets.batches import BATCH_ITEMS, Batches, forget
from paretopress.system import arrays_on_disk

COUNT = 300


class Counted(Dataset[Any]):
    """Item k is the image of k and whether k is odd, with the label k; counts what is read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], int]:
        self.reads.append(index)
        return (torch.full((1, 4, 4), float(index)), torch.tensor([index % 2 == 1])), index


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)


def went_through(batches: Batches) -> None:
    """Go through batches and see that they hold all items in their order."""
    found = [(x, odd, labels) for (x, odd), labels in batches]
    assert [len(labels) for *_, labels in found] == [128, 128, 44]
    x, odd, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert labels.tolist() == x[:, 0, 0, 0].tolist() == x[:, 0, 3, 3].tolist() == list(range(COUNT))
    assert odd[:, 0].tolist() == [k % 2 == 1 for k in range(COUNT)]


def test_batches_read_every_item_once_when_a_split_is_gone_through_by_many() -> None:
    split = Counted()
    for _ in range(5):
        went_through(Batches(split, COUNT))
    assert split.reads == list(range(COUNT))


@pytest.mark.usefixtures("small_memory")
def test_batches_read_every_item_once_when_the_disk_has_room_for_them(tmp_path: Path) -> None:
    split = Counted()
    for _ in range(3):
        went_through(Batches(split, COUNT, tmp_path))
    assert split.reads == list(range(COUNT))
    assert list(tmp_path.iterdir()) == []  # nothing is left where the process is killed
    (x, _), _ = next(iter(Batches(split, COUNT, tmp_path)))
    assert torch.from_numpy(x).sum() == 16 * sum(range(BATCH_ITEMS))  # without a warning: it can be written to


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("why", ["no folder", "too large", "little room", "no right"])
def test_batches_read_the_first_batch_once_when_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    folder: Path | None = tmp_path
    if why == "no folder":
        folder = None
    elif why == "too large":
        monkeypatch.setattr(arrays_on_disk, "DISK_BYTES", 1000)
    elif why == "little room":
        monkeypatch.setattr(arrays_on_disk, "DISK_SHARE", 0.0)
    else:
        folder = tmp_path / "absent"
    split = Counted()
    batches = Batches(split, COUNT, folder)
    assert not batches.kept()
    for _ in range(3):
        went_through(batches)
    later = list(range(BATCH_ITEMS, COUNT))
    assert split.reads == [*range(BATCH_ITEMS), *later, *later, *later]


def test_batches_read_a_split_again_when_it_is_forgotten() -> None:
    split = Counted()
    batches = Batches(split, COUNT)
    went_through(batches)
    forget(split)
    went_through(batches)
    assert len(split.reads) == 2 * COUNT


def test_batches_keep_nothing_when_the_split_is_gone() -> None:
    split = Counted()
    went_through(Batches(split, COUNT))
    gc.collect()  # what other tests left
    before = len(module._SHARED)
    del split
    gc.collect()
    assert len(module._SHARED) == before - 1


def test_batches_read_every_item_once_when_the_split_is_a_list() -> None:
    read: list[int] = []

    class Items(list[Any]):  # a list proper cannot be referred to weakly
        __slots__ = ()

        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    items: Sequence[Any] = Items([(torch.zeros(2), k) for k in range(3)])
    batches = Batches(items, 3)  # type: ignore[arg-type]
    assert [labels.tolist() for _ in range(2) for _, labels in batches] == [[0, 1, 2]] * 2
    assert read == [0, 1, 2]
