from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from paretopress.errors import DataError
from paretopress.intake.datasets.data import Data, Sample, Split, as_data, labels_of, stack, stratified
from paretopress.system.batch_loading import load_items


class Numbered(Dataset[Sample]):
    """Item i is a (1, 2, 2) image full of i, labelled i % 3."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return torch.full((1, 2, 2), float(index)), index % 3


class Batched(Numbered):
    """The same, read by whole batches only."""

    calls = 0

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("read one by one")

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        self.calls += 1
        return [(torch.full((1, 2, 2), float(index)), index % 3) for index in indices]


class Noisy(Numbered):
    """Adds noise from torch's global generator, as augmentation does."""

    def __getitem__(self, index: int) -> Sample:
        return torch.rand(1, 2, 2), 0


class Named(Numbered):
    def __init__(self, count: int, classes: list[str]) -> None:
        super().__init__(count)
        self.classes = classes


def values(split: Split) -> list[int]:
    size = len(cast(list[Sample], split))
    return [int(x[0, 0, 0]) for x, _ in load_items(split, range(size))]


def test_as_data_keeps_the_splits_when_three_are_given() -> None:
    train, val, test = Numbered(5), Numbered(4), Numbered(3)
    data = as_data((train, val, test))
    assert (data.train, data.val, data.test) == (train, val, test)
    assert data.sizes() == {"train": 5, "val": 4, "test": 3}


def test_as_data_cuts_half_of_val_when_test_is_missing() -> None:
    data = as_data((Numbered(5), Numbered(7)), seed=3)
    assert data.sizes() == {"train": 5, "val": 4, "test": 3}
    assert sorted(values(data.val) + values(data.test)) == list(range(7))


def test_as_data_cuts_the_same_items_when_the_seed_is_the_same() -> None:
    first, again, other = (values(as_data((Numbered(5), Numbered(40)), seed=seed).test) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_as_data_accepts_an_object_when_it_has_the_attributes() -> None:
    given = SimpleNamespace(train=Numbered(5), val=Numbered(4), test=Numbered(3), classes=["a", "b", "c"], preprocessing={"scale": 2})
    data = as_data(given)
    assert data.sizes() == {"train": 5, "val": 4, "test": 3}
    assert data.classes == ("a", "b", "c")
    assert dict(data.preprocessing) == {"scale": 2}


def test_as_data_returns_the_same_object_when_given_data() -> None:
    data = Data(Numbered(1), Numbered(1), Numbered(1))
    assert as_data(data) is data


def test_as_data_takes_the_classes_of_the_dataset_when_it_names_them() -> None:
    train = Subset(Named(9, ["cat", "dog"]), [0, 1])
    assert as_data((train, Numbered(4), Numbered(3))).classes == ("cat", "dog")


def test_as_data_raises_when_splits_name_different_classes() -> None:
    with pytest.raises(DataError, match="val differs from train in dog, owl"):
        as_data((Named(9, ["cat", "dog"]), Named(9, ["cat", "owl"]), Numbered(3)))


@pytest.mark.parametrize("sizes", [(0, 4, 3), (5, 0, 3), (5, 4, 0)])
def test_as_data_raises_when_a_split_is_empty(sizes: tuple[int, int, int]) -> None:
    empty = ("train", "val", "test")[sizes.index(0)]
    with pytest.raises(DataError, match=f"0 items in {empty}") as caught:
        as_data(tuple(Numbered(size) for size in sizes))
    assert caught.value.hint


def test_as_data_raises_when_val_is_too_small_to_cut() -> None:
    with pytest.raises(DataError, match="got 1 items in val"):
        as_data((Numbered(5), Numbered(1)))


@pytest.mark.parametrize("value", [None, 3, (Numbered(2),), SimpleNamespace(train=Numbered(2))])
def test_as_data_raises_when_the_value_holds_no_splits(value: object) -> None:
    with pytest.raises(DataError, match="two or three splits") as caught:
        as_data(value)
    assert "(train, val, test)" in caught.value.hint


def test_as_data_raises_when_a_split_has_no_length() -> None:
    with pytest.raises(DataError, match="list_iterator in val"):
        as_data((Numbered(2), iter([1]), Numbered(2)))


def test_data_cannot_be_changed_when_its_preprocessing_is_written_to() -> None:
    data = Data(Numbered(1), Numbered(1), Numbered(1), preprocessing={"scale": 1})
    with pytest.raises(TypeError):
        data.preprocessing["scale"] = 2  # type: ignore[index]  # the test is that this fails


def test_stack_returns_the_first_items_when_no_seed_is_given() -> None:
    x, labels = stack(Numbered(9), 4)
    assert x.shape == (4, 1, 2, 2)
    assert x[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert labels.tolist() == [0, 1, 2, 0]
    assert labels.dtype == torch.int64


def test_stack_chooses_without_repetition_when_seeded() -> None:
    chosen = [stack(Numbered(50), 20, seed)[0][:, 0, 0, 0].tolist() for seed in (7, 7, 8)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert len(set(chosen[0])) == 20


def test_stack_repeats_augmentation_and_spares_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = stack(Noisy(9), 4, 1)[0], stack(Noisy(9), 4, 1)[0]
    assert torch.equal(first, again)
    assert torch.equal(torch.rand(3), expected)


def test_stack_returns_all_items_when_count_exceeds_the_size() -> None:
    assert len(stack(Numbered(3), 10)[1]) == 3
    assert len(stack(Numbered(3), 10, seed=0)[1]) == 3


def test_stack_reads_one_batch_when_the_dataset_can() -> None:
    dataset = Batched(9)
    assert stack(dataset, 5)[0][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert dataset.calls == 1


def test_stack_reads_a_list_when_items_are_in_one() -> None:
    items = [(torch.zeros(1, 2, 2), 1), (torch.ones(1, 2, 2), 0)]
    assert stack(cast(Split, items), 2)[1].tolist() == [1, 0]


def test_stack_raises_when_items_differ_in_shape() -> None:
    items = [(torch.zeros(1, 2, 2), 1), (torch.ones(1, 2, 3), 0)]
    with pytest.raises(DataError, match=r"shape=\(1, 2, 3\) at index 1"):
        stack(cast(Split, items), 2)


def test_stack_raises_when_count_is_zero() -> None:
    with pytest.raises(DataError, match="count=0"):
        stack(Numbered(3), 0)


def test_stratified_divides_every_class_when_given_shares() -> None:
    labels = torch.tensor([0] * 10 + [1] * 20)
    parts = stratified(labels, (0.6, 0.2, 0.2), seed=0)
    assert [[int((labels[part] == label).sum()) for label in (0, 1)] for part in parts] == [[6, 12], [2, 4], [2, 4]]
    assert sorted(index for part in parts for index in part) == list(range(30))
    assert parts[0] != sorted(parts[0])


def labelled(**attributes: object) -> Split:
    dataset = Numbered(3)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize("value", [[4, 5, 6], torch.tensor([4, 5, 6], dtype=torch.uint8)])
@pytest.mark.parametrize("name", ["targets", "labels"])
def test_labels_of_reads_the_attribute_when_it_holds_the_labels(name: str, value: object) -> None:
    labels = labels_of(labelled(**{name: value}))
    assert labels is not None
    assert labels.tolist() == [4, 5, 6]


def test_labels_of_follows_the_indices_when_given_a_subset() -> None:
    labels = labels_of(Subset(Subset(labelled(targets=[4, 5, 6]), [2, 0]), [1, 0]))
    assert labels is not None
    assert labels.tolist() == [4, 6]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"labels": ["cat", "dog", "owl"]},
        {"targets": [1, 2]},
        {"targets": [0.5, 1.0, 2.0]},
        {"targets": [4, 5, 6], "target_transform": lambda label: label - 4},
    ],
)
def test_labels_of_returns_none_when_the_attribute_is_something_else(attributes: dict[str, object]) -> None:
    assert labels_of(labelled(**attributes)) is None


def test_load_items_calls_with_a_list_when_given_a_range() -> None:
    seen: list[object] = []

    class Picky(Numbered):
        def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
            seen.append(indices)
            return [self[index] for index in indices]

    load_items(Picky(5), range(2))
    assert seen == [[0, 1]]
