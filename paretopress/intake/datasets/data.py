"""The data of a run: three splits of labelled items, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from paretopress.core.model_inputs import Inputs
from paretopress.errors import DataError
from paretopress.intake.datasets.data_identity import data_parts
from paretopress.intake.datasets.loaders import as_split
from paretopress.system.batch_loading import Item, collate, inputs_of, load_items
from paretopress.system.seeding import seeded
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

Sample: TypeAlias = Item
Split: TypeAlias = Dataset[Sample]

SPLITS = ("train", "val", "test")
ACCEPTED = "Hand over (train, val, test) or (train, val) datasets, or an object with these attributes."


@dataclass(frozen=True, slots=True)
class Data:
    """Three splits; each is sized and indexable, and an item is (x, label).

    x is a tensor, (C, H, W) float32 of an image; or a tuple of tensors in the order of the model's arguments, or a dict by their names.

    A split may also have `__getitems__(indices) -> list of items`, which reads a whole batch in one call and is used where present. A
    DataLoader stands for its items, and an iterable data set for its first ones; see `as_split`.

    Attributes:
        train: what recovery trains on, augmented as its owner likes.
        val: what the search sees; never augmented.
        test: what the final front is scored on, once.
        classes: names by label, or ().
        preprocessing: how a raw image becomes x, JSON values only; a bundle's manifest carries it.
        task: how outputs are judged by the labels; classification by top-1 unless it is said.
    Raises: DataError: a split is empty, or is not sized and indexable.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    task: Task = field(default_factory=Classification)

    def __post_init__(self) -> None:
        for name, split in self.splits().items():
            object.__setattr__(self, name, as_split(split, name))
        for name, split in self.splits().items():
            if split_size(split, name) == 0:
                raise DataError(
                    f"a split must have at least one item, but got 0 items in {name}", "Check the path or the factory of the data."
                )
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "preprocessing", MappingProxyType(dict(self.preprocessing)))

    def splits(self) -> dict[str, Split]:
        """Return name -> split, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def sizes(self) -> dict[str, int]:
        """Return name -> number of items."""
        return {name: split_size(split, name) for name, split in self.splits().items()}


def as_data(value: object, seed: int = 0) -> Data:
    """Return `value` as Data.

    Args:
        value: Data, a (train, val, test) or (train, val) tuple, or an object with these attributes.
        seed: of the cut where there is no test split: half of val, chosen at random, becomes test.
    Raises: DataError: another kind of value, an empty split, or splits that name different classes.
    """
    if isinstance(value, Data):
        return value
    splits = tuple(as_split(split, name) for name, split in zip(SPLITS, _given_splits(value), strict=False))
    for name, split in zip(SPLITS, splits, strict=False):
        split_size(split, name)
    if len(splits) == 2:
        splits = (splits[0], *_val_and_test(splits[1], seed))
    train, val, test = splits
    classes = _own(value, "classes") or _common_classes(splits)
    preprocessing = _own(value, "preprocessing") or _dataset_attribute(val, "preprocessing") or {}
    return Data(train, val, test, _names(classes), cast(Mapping[str, object], preprocessing))


def data_sha256(data: Data, seed: int) -> str:
    """Return one hash of all that `data_identity` names."""
    return hashlib.sha256(repr(sorted(data_identity(data, seed).items())).encode()).hexdigest()


def data_identity(data: Data, seed: int) -> dict[str, str]:
    """Return the hashes of labels, of items, and of what a bundle says of them; see `data_parts`. `seed` draws the items that are read."""
    splits = data.splits()
    described = hashlib.sha256(repr((data.classes, sorted(data.preprocessing.items()))).encode()).hexdigest()
    return {**data_parts(splits, {name: labels_of(split) for name, split in splits.items()}, seed), "classes and preprocessing": described}


class WrappedSplit(Dataset[Sample]):
    """A split made of the items of another, one by one; a subclass says what of a batch of them, in `__getitems__`."""

    items: Split

    def __len__(self) -> int:
        return split_size(self.items)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the items at `indices`."""
        raise NotImplementedError


def split_size(split: Split, name: str = "split") -> int:
    """Return the number of items. Raises: DataError: the split is not sized or not indexable."""
    if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")):
        raise DataError(f"a split must have a length and be indexable, but got {type(split).__name__} in {name}", ACCEPTED)
    return len(cast(Sized, split))


def batch(split: Split, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
    """Return (x of N items, their labels (N, ...)) at `indices`.

    Raises: DataError: the items differ in shape.
    """
    items = load_items(split, indices)
    first = [tuple(part.shape) for part in inputs_of(items[0][0])]
    for index, (x, _) in zip(indices, items, strict=True):
        shapes = [tuple(part.shape) for part in inputs_of(x)]
        if shapes != first:
            wanted, got = (found[0] if len(found) == 1 else found for found in (first, shapes))
            raise DataError(f"all items must have shape {wanted}, but got shape={got} at index {index}")
    return collate(items)


def argument_names(split: Split) -> tuple[str, ...] | None:
    """Return the names of the model's arguments where items are dicts, else None."""
    with seeded(0):
        (item,) = load_items(split, [0])
    x = item[0] if isinstance(item, tuple | list) and item else item
    return tuple(map(str, x)) if isinstance(x, Mapping) else None


def item_shapes(split: Split) -> dict[str, tuple[int, ...]] | list[tuple[int, ...]] | None:
    """Return the shape of each input of an item, by the names of the model's arguments or in their order; None where it cannot be read."""
    try:
        with seeded(0):
            (item,) = load_items(split, [0])
        x = item[0] if isinstance(item, tuple | list) else item
        shapes = [tuple(part.shape) for part in inputs_of(x)]
    except Exception:  # whatever the user's data set raises: the check of the data tells it
        return None
    return dict(zip(map(str, x), shapes, strict=True)) if isinstance(x, Mapping) else shapes


def stack(split: Split, count: int, seed: int | None = None) -> tuple[Inputs, Tensor]:
    """Return (x, labels (N, ...)) of N = min(count, size) items.

    Args:
        seed: None takes the first items; a number takes a random choice without repetition, and also seeds the augmentation of
            splits that draw from a global generator, see `seeded`, so that the result repeats.
    Raises: DataError: `count` is below 1, the split is empty, or the items differ in shape.
    """
    size = split_size(split)
    if count < 1 or size < 1:
        raise DataError(f"count and the size of the split must be at least 1, but got count={count}, size={size}")
    if seed is None:
        return batch(split, range(min(count, size)))
    with seeded(seed):
        return batch(split, torch.randperm(size).tolist()[:count])


def cut(split: Split, count: int, seed: int) -> tuple[Subset[Sample], Subset[Sample]]:
    """Return (the rest, `count` items), both in random order: the first images of sorted data would show one class only."""
    order = torch.randperm(split_size(split), generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(split, order[count:]), Subset(split, order[:count])


def shuffled(split: Split, seed: int) -> Split:
    """Return the same items in a seeded order; for sorted data, of which the first images would show one class only."""
    return cut(split, split_size(split), seed)[1]


def stratified(labels: Tensor, shares: Sequence[float], seed: int) -> list[list[int]]:
    """Return one list of indices a share, each in random order, with every class divided by `shares`; the last takes the rest.

    Args: labels: (N,) integers.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[int]] = [[] for _ in shares]
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        ends = [round(sum(shares[: i + 1]) * len(members)) for i in range(len(shares) - 1)]
        for part, chunk in zip(parts, members.tensor_split(ends), strict=True):
            part.extend(chunk.tolist())
    return [[part[i] for i in torch.randperm(len(part), generator=generator).tolist()] for part in parts]


def labels_of(split: Split) -> Tensor | None:
    """Return all labels (N,) int64 without reading an image, or None where the split does not tell them.

    Read from `.targets` or `.labels`, through Subsets; not where a target_transform changes them on the way.
    """
    if isinstance(split, Subset):
        labels = labels_of(split.dataset)
        return None if labels is None else labels[torch.as_tensor(list(split.indices), dtype=torch.int64)]
    if getattr(split, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        labels = _integers(getattr(split, name, None), split_size(split))
        if labels is not None:
            return labels
    return None


def _integers(value: object, size: int) -> Tensor | None:
    if value is None:
        return None
    try:
        labels = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None  # names, or a method: not labels
    if labels.shape != (size,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return None
    return labels.to(torch.int64)


def _given_splits(value: object) -> tuple[Split, ...]:
    if isinstance(value, tuple | list) and len(value) in (2, 3):
        return tuple(value)
    found = [getattr(value, name, None) for name in SPLITS]
    if found[0] is None or found[1] is None:
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise DataError(f"data must be two or three splits, but got {type(value).__name__}{size}", ACCEPTED)
    return tuple(cast(Split, split) for split in found if split is not None)


def _val_and_test(val: Split, seed: int) -> tuple[Split, Split]:
    count = split_size(val, "val")
    if count < 2:
        raise DataError(
            f"val must have at least 2 items where test is cut off it, but got {count} items in val", "Give a larger val, or a test split."
        )
    return cut(val, count // 2, seed)


def _own(value: object, name: str) -> object:
    return None if isinstance(value, tuple | list) else getattr(value, name, None)


def _dataset_attribute(split: Split, name: str) -> object:
    while isinstance(split, Subset):
        split = split.dataset
    return getattr(split, name, None)


def _names(classes: object) -> tuple[str, ...]:
    return tuple(str(name) for name in cast(Iterable[object], classes))


def _common_classes(splits: Iterable[Split]) -> tuple[str, ...]:
    first: tuple[str, ...] = ()
    for name, split in zip(SPLITS, splits, strict=True):
        classes = _names(_dataset_attribute(split, "classes") or ())
        if first and classes and classes != first:
            odd = sorted(set(first) ^ set(classes)) or ["the order"]
            raise DataError(f"all splits must have the same classes, but {name} differs from train in {', '.join(odd[:5])}")
        first = first or classes
    return first
