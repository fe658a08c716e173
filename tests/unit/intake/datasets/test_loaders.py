"""DataLoaders and iterable data sets that are handed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

from paretopress.errors import DataError
from paretopress.intake.datasets import loaders as module
from paretopress.intake.datasets.data import Data, as_data, batch, split_size
from paretopress.intake.datasets.loaders import as_split

ITEMS = TensorDataset(torch.arange(24.0).reshape(12, 2), torch.arange(12) % 3)


class Stream(IterableDataset[Any]):
    """Item k is a row of k, with the label k; after `good` of them it fails."""

    def __init__(self, count: int, good: int | None = None) -> None:
        self.count, self.good = count, good

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for k in range(self.count):
            if k == self.good:
                raise OSError("the connection is gone")
            yield torch.full((4,), float(k)), k


class Texts(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": "ab" * (index + 1), "label": index % 2}


def tokens(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    rows = [[ord(letter) for letter in item["text"].ljust(12)] for item in items]
    return {"input_ids": torch.tensor(rows), "labels": torch.tensor([item["label"] for item in items])}


def test_a_loader_stands_for_its_data_set() -> None:
    assert as_split(DataLoader(ITEMS, batch_size=4, shuffle=True)) is ITEMS
    assert as_split(DataLoader(ITEMS, batch_sampler=BatchSampler(RandomSampler(ITEMS), 4, drop_last=True))) is ITEMS
    assert as_split(ITEMS) is ITEMS


def test_a_loader_with_a_subset_of_the_items_stands_for_these() -> None:
    train, val = (DataLoader(ITEMS, 2, sampler=SubsetRandomSampler(chosen)) for chosen in (range(8), [9, 11]))
    data = as_data((train, val, DataLoader(ITEMS, 3)))
    assert data.sizes() == {"train": 8, "val": 2, "test": 12}
    assert batch(data.val, [0, 1])[0].tolist() == [[18.0, 19.0], [22.0, 23.0]]


def test_items_are_collated_as_the_loader_does() -> None:
    split = as_split(DataLoader(Texts(), batch_size=2, collate_fn=tokens))
    assert split_size(split) == 5
    x, labels = batch(split, [1, 3])
    assert isinstance(x, Tensor)
    assert x.shape == (2, 12)
    assert labels.tolist() == [1, 1]


@pytest.mark.parametrize("handed_over", [Stream(7), DataLoader(Stream(7), batch_size=3), DataLoader(Stream(7), batch_size=None)])
def test_the_items_of_an_iterable_are_read_once(handed_over: Any) -> None:
    split = as_split(handed_over)
    assert split_size(split) == 7
    for _ in range(2):
        x, labels = batch(split, [6, 2])
        assert x[:, 0].tolist() == [6.0, 2.0]
        assert labels.tolist() == [6, 2]


@pytest.mark.parametrize(("bound", "value"), [("MOST_ITEMS", 5), ("MOST_BYTES", 5 * 16)])
def test_of_an_iterable_the_first_items_are_kept(monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    monkeypatch.setattr(module, bound, value)
    assert split_size(as_split(Stream(1000))) == 5


def test_an_iterable_that_fails_or_is_used_up_ends_in_what_to_do() -> None:
    with pytest.raises(DataError, match=r"got OSError: the connection is gone at val\[3\]"):
        as_data((ITEMS, Stream(9, good=3)))
    with pytest.raises(DataError, match="at least one item, but got none from the iterable in train"):
        Data(Stream(0), ITEMS, ITEMS)
