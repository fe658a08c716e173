"""Reading items from a data set, a whole batch in one call where it offers that."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset


def fetch(split: Dataset[tuple[Tensor, int]], indices: Sequence[int]) -> list[tuple[Tensor, int]]:
    """Return the items at `indices`, read by one `__getitems__` where the split has it.

    A batch of 128 photos of 32x32 is read and augmented in a fraction of the time then.
    """
    batched = getattr(split, "__getitems__", None)
    if callable(batched):
        return list(batched(list(indices)))
    return [split[index] for index in indices]
