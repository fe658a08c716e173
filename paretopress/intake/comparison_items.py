"""Items for comparing two models: from the most padded to the least."""

from __future__ import annotations

import torch
from torch import Tensor

from paretopress.core.model_inputs import Inputs, like, tensors, values_of_an_item
from paretopress.intake.datasets.data import Split, batch, split_size, stack

_READ, _VALUES = 64, 1 << 24


def comparison_items(split: Split, count: int, seed: int) -> Inputs:
    """Return `count` items of a split, or all where it has fewer: from the one of the most padding to the one of the least.

    Up to 64 random items are looked at, fewer where they are large. Padding shows as values that are the same as those before them.
    """
    first, _ = batch(split, [0])
    read = min(max(_VALUES // max(values_of_an_item(first), 1), count), _READ, split_size(split))
    found, _ = stack(split, read, seed)
    order = torch.argsort(sum((_repeats(part) for part in tensors(found)), torch.zeros(read)), stable=True)
    chosen = order[torch.linspace(0, read - 1, min(count, read)).round().long()]
    return like(found, (part[chosen] for part in tensors(found)))


def _repeats(part: Tensor) -> Tensor:
    """Return (N,): how many values of each item are the same as the one before."""
    values = part.flatten(1)
    return (values[:, 1:] == values[:, :-1]).sum(1).float()
