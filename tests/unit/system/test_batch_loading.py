from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from paretopress.system.batch_loading import load_items


class Dicts:
    """Items as Hugging Face's datasets give them: lists of numbers, a text, and a label in one dict."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"input_ids": [index, 1, 2], "attention_mask": [1, 1, 0], "sentence": "a text", "label": index % 2}


def test_load_items_parts_the_label_when_an_item_is_one_dict() -> None:
    (x, label) = load_items(Dicts(), [3])[0]
    assert label == 1
    assert {name: part.tolist() for name, part in x.items()} == {"input_ids": [3, 1, 2], "attention_mask": [1, 1, 0]}


def test_load_items_gives_a_tensor_when_a_dict_holds_one_input() -> None:
    split = [{"pixel_values": torch.ones(3, 2, 2), "labels": torch.tensor(1)}, {"pixel_values": torch.ones(3, 2, 2)}]
    (x, label), unlabelled = load_items(split, [0, 1])
    assert x.shape == (3, 2, 2)
    assert int(label) == 1
    assert list(unlabelled) == ["pixel_values"]


class WithBroken(Dataset[tuple[Tensor, int]]):
    """Two hundred items, of which some cannot be read."""

    def __init__(self, broken: set[int], error: Exception | None = None) -> None:
        self.broken, self.error = broken, error or OSError("image file is truncated")

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.broken:
            raise self.error
        return torch.tensor(float(index)), index


def test_the_next_item_stands_in_for_a_broken_one_which_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    split = WithBroken({3, 199})
    for _ in range(2):
        assert [label for _, label in load_items(split, [2, 3, 199])] == [2, 4, 0]
    assert [record.message.split(" cannot")[0] for record in caplog.records] == ["paretopress: item 3", "paretopress: item 199"]
    assert "image file is truncated" in caplog.text


def test_more_broken_items_than_one_in_a_hundred_are_an_error() -> None:
    split = WithBroken({3, 5, 7})
    load_items(split, [3]), load_items(split, [5])
    with pytest.raises(OSError, match="truncated"):
        load_items(split, [7])
    with pytest.raises(OSError, match="truncated"):
        load_items(WithBroken(set(range(200))), [0])


def test_other_errors_are_not_passed_over() -> None:
    with pytest.raises(ValueError, match="a defect"):
        load_items(WithBroken({3}, ValueError("a defect")), [3])
