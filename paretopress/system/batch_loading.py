"""Load batches of items from a data set, by one call where it offers `__getitems__`; a few broken files are passed over."""

from __future__ import annotations

import logging
import struct
import weakref
import zlib
from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from paretopress.core.model_inputs import Inputs

# (x, label); x is a tensor, or a tuple or dict of them
Item: TypeAlias = tuple[Any, Any]
# what reading a damaged or missing file raises, and the share of the items that may do so
_BROKEN = (OSError, EOFError, SyntaxError, struct.error, zlib.error)  # Pillow's errors are the first, of damaged PNGs the third
_BROKEN_SHARE = 0.01
# keys of an item that is one dict, as those of Hugging Face's datasets are, under which its label lies
LABELS = ("labels", "label", "targets", "target")

_logger = logging.getLogger("paretopress")
_found_broken: dict[int, set[int]] = {}  # by id of a split


def load_items(split: Dataset[Item], indices: Sequence[int]) -> list[Item]:
    """Return the items at `indices` as (x, label); see `as_pair` and `raw_items`."""
    return [as_pair(item) for item in raw_items(split, indices)]


def raw_items(split: Dataset[Any], indices: Sequence[int]) -> list[Any]:
    """Return the items at `indices` as the split has them, read by one `__getitems__` where it has that.

    A batch of 128 photos of 32x32 is read and augmented in a fraction of the time then. In place of an item whose file is broken the next
    one is returned, as long as one in a hundred is at most; each is named in a warning.
    """
    try:
        return _together(split, indices)
    except _BROKEN as error:
        if _may_break(split) < 1 or _broken_of(split) is None:
            raise
        _logger.debug("items are read one by one: %s", error)
        return [_whole_one(split, index) for index in indices]


def _together(split: Dataset[Item], indices: Sequence[int]) -> list[Any]:
    batched = getattr(split, "__getitems__", None)
    return list(batched(list(indices))) if callable(batched) else [split[index] for index in indices]


def _whole_one(split: Dataset[Item], index: int) -> Any:
    """Return the item at an index, or the next one that can be read; raises what reading raised where too many are broken."""
    broken = _broken_of(split)
    assert broken is not None
    size = len(cast(Sized, split))
    for step in range(size):
        place = (index + step) % size
        if place in broken:
            continue
        try:
            return _together(split, [place])[0]
        except _BROKEN as error:
            if len(broken) >= _may_break(split):
                raise
            broken.add(place)
            _logger.warning("paretopress: item %d cannot be read and is passed over, the next one stands in for it: %s", place, error)
    raise OSError(f"no item of {size} can be read")


def _may_break(split: Dataset[Item]) -> int:
    """Return how many items of a split may be broken."""
    return int(_BROKEN_SHARE * len(cast(Sized, split))) if hasattr(split, "__len__") else 0


def _broken_of(split: Dataset[Item]) -> set[int] | None:
    """Return the places of a split that were found to be broken, for as long as the split lives; None of one that has no such life."""
    if id(split) not in _found_broken:
        try:
            weakref.finalize(split, _found_broken.pop, id(split), None).atexit = False
        except TypeError:  # a list, for one
            return None
        _found_broken[id(split)] = set()
    return _found_broken[id(split)]


def as_pair(item: Any) -> Any:
    """Return an item that is a dict with a label as (x, label); any other as it is.

    x holds what is made of numbers, under its name; if that is one tensor alone, x is that tensor.
    """
    key = next((name for name in LABELS if name in item), None) if isinstance(item, Mapping) else None
    if key is None:
        return item
    inputs = {str(name): torch.as_tensor(part) for name, part in item.items() if name != key and _is_numeric(part)}
    return (next(iter(inputs.values())) if len(inputs) == 1 else inputs), item[key]


def _is_numeric(value: object) -> bool:
    try:
        torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def inputs_of(x: object) -> tuple[Tensor, ...]:
    """Return the tensors of one item, those of a dict in its order; raises TypeError for what is none."""
    parts = (
        (x,) if isinstance(x, Tensor) else tuple(x.values()) if isinstance(x, Mapping) else tuple(x) if isinstance(x, tuple | list) else ()
    )
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"x must be a tensor, or a tuple or dict of tensors, but got {type(x).__name__}")
    return parts


def collate(items: Sequence[Item]) -> tuple[Inputs, Tensor]:
    """Return (inputs of N items, their labels (N, ...)); whole numbers become int64."""
    parts = zip(*(inputs_of(x) for x, _ in items), strict=True)
    made = tuple(torch.stack(part) for part in parts)
    labels = torch.stack([torch.as_tensor(label) for _, label in items])
    labels = labels if labels.is_floating_point() else labels.long()
    return (made[0] if isinstance(items[0][0], Tensor) else made), labels
