"""Splits that are handed over as a DataLoader or as an iterable data set: their items, by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from paretopress.errors import DataError, typed_line, users_line
from paretopress.system.batch_loading import Item, inputs_of, raw_items

# of an iterable data set so much is read
MOST_ITEMS, MOST_BYTES = 100_000, 2 << 30


def as_split(value: Any, name: str = "split") -> Any:
    """Return the items of a DataLoader or of an iterable data set as a split; anything else as it is.

    A loader's sampler counts where it chooses items, as a SubsetRandomSampler does, and its collate function where it is one of the
    user's; the batches and their order are paretopress's own.
    Raises: DataError: an iterable data set raised, or has no items.
    """
    if isinstance(value, DataLoader):
        dataset = value.dataset
        if isinstance(dataset, IterableDataset):
            return _read(_items_of(value), name)
        chosen = getattr(getattr(value.batch_sampler, "sampler", value.sampler), "indices", None)
        split: Dataset[Any] = dataset if chosen is None else Subset(dataset, [int(index) for index in chosen])
        own = value.collate_fn if value.batch_size is not None or value.batch_sampler is not None else None
        return split if own is None or own is default_collate else _Collated(split, own)
    return _read(value, name) if isinstance(value, IterableDataset) else value


class _Collated(Dataset[Item]):
    """Items as a collate function makes them, each collated alone."""

    def __init__(self, items: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.items, self.collate = items, collate

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]  # Dataset declares no length

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items at `indices`."""
        return [_at(self.collate([item]), 0) for item in raw_items(self.items, indices)]


def _items_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the items of a loader one by one, of its batches if it makes them."""
    for batch in loader:
        if loader.batch_size is None:
            yield batch
        else:
            yield from (_at(batch, index) for index in range(_size(batch)))


def _at(batch: Any, index: int) -> Any:
    """Return an item of a batch, in the form of the batch."""
    if isinstance(batch, Mapping):
        return {key: _at(part, index) for key, part in batch.items()}
    if isinstance(batch, tuple | list) and any(isinstance(part, Tensor | np.ndarray | Mapping | tuple | list) for part in batch):
        return tuple(_at(part, index) for part in batch)
    return batch[index]


def _size(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return _size(next(iter(batch.values())))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor | np.ndarray | Mapping | tuple | list):
        return _size(batch[0])
    return len(batch)


class _Items(Dataset[Item]):
    """Items that were read once."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def _read(items: Iterable[Any], name: str) -> _Items:
    """Return the first items of an iterable, as many as there is room for."""
    kept: list[Any] = []
    size_bytes = 0
    try:
        for item in items:
            kept.append(item)
            size_bytes += _bytes_of(item)
            if len(kept) >= MOST_ITEMS or size_bytes >= MOST_BYTES:
                break
    except Exception as error:  # whatever a data set of the user's raises
        raise DataError(f"items must be readable, but got {typed_line(error)} at {name}[{len(kept)}]{users_line(error)}") from error
    if not kept:
        raise DataError(f"a split must have at least one item, but got none from the iterable in {name}", "Is it used up? Make it anew.")
    return _Items(kept)


def _bytes_of(item: Any) -> int:
    x = item[0] if isinstance(item, tuple | list) and item else item
    try:
        return sum(
            part.nbytes for part in inputs_of({key: torch.as_tensor(part) for key, part in x.items()} if isinstance(x, Mapping) else x)
        )
    except (TypeError, ValueError, RuntimeError):
        return 0
