"""Data without labels: an item's target is what the original model puts out for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from paretopress.core.model_inputs import Inputs
from paretopress.intake.datasets.data import Data, Sample, Split, WrappedSplit
from paretopress.system.batch_loading import collate, load_items
from paretopress.tasks.base import Task

# inputs (N, ...) -> the original's first output (N, ...)
FirstOutput = Callable[[Inputs], Tensor]


class WithTargets(WrappedSplit):
    """The inputs of a split, each with a target: what `target_of` makes of a batch of them, or 0 where that is None."""

    def __init__(self, inputs: Split, target_of: FirstOutput | None) -> None:
        self.items, self.target_of = inputs, target_of

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the items at `indices`; the model runs once for all of them."""
        items = [(input_of(item), 0) for item in load_items(self.items, indices)]
        if self.target_of is None:
            return items
        batch, _ = collate(items)
        with torch.no_grad():
            targets = self.target_of(batch)
        return [(x, target) for (x, _), target in zip(items, targets, strict=True)]


def has_label(item: object) -> bool:
    """Return whether an item of a data set is more than an input: a tensor, a dict of tensors, or one of them in a tuple."""
    return not isinstance(item, Tensor | Mapping) and not (isinstance(item, tuple | list) and len(item) == 1)


def input_of(item: Any) -> Any:
    """Return the input of an item, which may have a label."""
    return item[0] if isinstance(item, tuple | list) else item


def with_outputs_as_targets(data: Data, task: Task, original: FirstOutput) -> Data:
    """Return data whose targets are the outputs of the original model; training items have none, for students learn from it anyway."""
    return replace(
        data,
        train=WithTargets(data.train, None),
        val=WithTargets(data.val, original),
        test=WithTargets(data.test, original),
        task=task,
    )
