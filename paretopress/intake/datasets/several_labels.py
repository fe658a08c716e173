"""Data whose items have a label for each of several outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from paretopress.errors import ConfigError, DataError
from paretopress.intake.datasets.data import Data, Sample, Split, WrappedSplit, split_size
from paretopress.system.batch_loading import Item, collate, load_items
from paretopress.tasks.base import Task
from paretopress.tasks.label_forms import task_for_labels
from paretopress.tasks.several import Labelled, SeveralOutputs, labels_together

_JUDGED_ITEMS = 64
_PERCENT = ("%", "x 100")


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """An output that is judged: its name or its place among the outputs, its task, and its weight."""

    output: str | int
    task: Task
    weight: float


class LabelsTogether(WrappedSplit):
    """A split whose labels, one for each of the outputs `names`, lie in one row of numbers an item."""

    def __init__(self, items: Split, names: Sequence[str | int]) -> None:
        self.items, self.names = items, tuple(names)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the items at `indices`."""
        return [(x, labels_together(_labels(label, self.names))) for x, label in load_items(self.items, indices)]


def with_several_labels(data: Data, asked: Sequence[AskedOutput], outputs_of: Callable[[Any], Mapping[str, Tensor]]) -> Data:
    """Return data and the task of judging several outputs.

    Args:
        outputs_of: a batch of inputs -> the model's outputs by name, in their order.
    Raises: ConfigError: the model has no such output, or the metrics are not all in percent. DataError: an item has not one label for each.
    """
    names = [one.output for one in asked]
    items = load_items(data.val, range(min(_JUDGED_ITEMS, split_size(data.val))))
    labels = [_labels(_label(item), names) for item in items]
    x, _ = collate([(item[0], 0) for item in items[:2]])
    outputs = outputs_of(x)
    places = [_place(one.output, list(outputs)) for one in asked]
    parts = []
    for at, (one, place) in enumerate(zip(asked, places, strict=True)):
        if one.task.metric.unit not in _PERCENT:
            raise ConfigError(
                f"outputs that are judged together need metrics in percent, but got {one.task.metric.name} in {one.task.metric.unit}",
                "Judge that output alone, or score all by a function of yours.",
            )
        own = torch.stack([label[at] for label in labels])
        output = list(outputs.values())[place]
        task, _ = task_for_labels(one.task, (output,), own if own.is_floating_point() else own.long())
        parts.append(Labelled(place, task, one.weight, tuple(own.shape[1:]), not own.is_floating_point()))
    train, val, test = (LabelsTogether(split, names) for split in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test, task=SeveralOutputs(tuple(parts)))


def _label(item: Item | object) -> object:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"an item must be (x, labels), but got {type(item).__name__}")
    return item[1]


def _labels(label: object, names: Sequence[str | int]) -> list[Tensor]:
    """Return the label of each output: by name where they are a dict, else in the order in which the outputs are named."""
    try:
        if isinstance(label, Mapping):
            found = [label[name] for name in names]
        elif isinstance(label, tuple | list | Tensor) and len(label) == len(names):
            found = list(label)
        else:
            raise KeyError(f"{type(label).__name__} {label}"[:100])
        return [torch.as_tensor(one) for one in found]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        listed = ", ".join(map(str, names))
        raise DataError(
            f"an item must have a label for each of the outputs {listed}, but got {error}",
            "Return (x, (label, label, ...)) in the order of [[metric.outputs]], or a dict of labels by the outputs' names.",
        ) from error


def _place(output: str | int, names: Sequence[str]) -> int:
    if isinstance(output, int) and 0 <= output < len(names):
        return output
    if isinstance(output, str) and output in names:
        return names.index(output)
    raise ConfigError(f"an output that is judged must be one of {', '.join(names)}, or its place from 0 on, but got {output!r}")
