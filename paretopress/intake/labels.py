"""Fit the task of a run to the labels that its data has, or to data without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from paretopress.core.model_inputs import Inputs, taken, tensors
from paretopress.core.model_outputs import named_tensors
from paretopress.intake.datasets.data import Data, split_size
from paretopress.intake.datasets.unlabelled import has_label, with_outputs_as_targets
from paretopress.intake.faithful import evaluated_copy
from paretopress.intake.raw_heads import anchors_of
from paretopress.system.batch_loading import collate, load_items
from paretopress.system.seeding import seeded
from paretopress.tasks.agreement import Agreement
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification
from paretopress.tasks.label_forms import task_for_labels
from paretopress.tasks.metric_names import AGREEMENT, SQNR
from paretopress.tasks.raw_heads import SSD, RawDetection

_JUDGED_ITEMS, _PROBE_ITEMS = 64, 2


def fit_labels(data: Data, model: nn.Module) -> tuple[Data, tuple[str, ...]]:
    """Return the data with the task that its labels ask for, and what they were taken for, in a sentence each.

    Data without labels is judged by the agreement with the original model. Where items cannot be read, or do not fit the model, the data
    is returned as it is: `check_data` tells what is wrong.
    """
    try:
        with seeded(0):
            items = load_items(data.val, range(min(_JUDGED_ITEMS, split_size(data.val))))
        labelled = has_label(items[0])
        x, targets = collate([item if labelled else (item[0] if isinstance(item, tuple | list) else item, 0) for item in items])
        names = tuple(map(str, items[0][0])) if labelled and isinstance(items[0][0], Mapping) else _names_of(items[0])
        evaluated = evaluated_copy(model)
        outputs = _outputs(evaluated, names, taken(x, _PROBE_ITEMS))
    except Exception:  # whatever the user's data set or model raises
        return data, ()
    if not labelled or isinstance(data.task, Agreement):
        return _unlabelled(data, outputs[0], evaluated, names, labelled=labelled)
    if isinstance(data.task, RawDetection):
        rows, columns = tensors(x)[0].shape[-2:]
        anchors = anchors_of(evaluated) if data.task.decoder == SSD else ()
        return replace(data, task=replace(data.task, size=(int(rows), int(columns)), classes=data.classes, anchors=anchors)), ()
    task, note = task_for_labels(data.task, outputs, targets)
    return replace(data, task=task), (note,) if note else ()


def _unlabelled(
    data: Data, output: Tensor, model: nn.Module, names: Sequence[str] | None, *, labelled: bool
) -> tuple[Data, tuple[str, ...]]:
    task: Task = data.task
    notes: tuple[str, ...] = ()
    if not isinstance(task, Agreement):
        if not isinstance(task, Classification) or labelled:
            return data, ()
        task = Agreement(AGREEMENT if output.ndim == 2 and output.shape[1] > 1 else SQNR)
        notes = (f"the data has no labels: scored by the agreement with the original model ({task.metric.name})",)
    return with_outputs_as_targets(data, task, _Original(model, names)), notes


class _Original:
    """The original model as a function of a batch of inputs to its first output."""

    def __init__(self, model: nn.Module, names: Sequence[str] | None) -> None:
        self.model, self.names = model, names

    def __call__(self, x: Inputs) -> Tensor:
        return _outputs(self.model, self.names, x)[0]


def _outputs(model: nn.Module, names: Sequence[str] | None, x: Inputs) -> tuple[Tensor, ...]:
    with torch.no_grad():
        value = model(*tensors(x)) if names is None else model(**dict(zip(names, tensors(x), strict=True)))
    return tuple(named_tensors(value).values())


def _names_of(item: object) -> tuple[str, ...] | None:
    return tuple(map(str, item)) if isinstance(item, Mapping) else None
