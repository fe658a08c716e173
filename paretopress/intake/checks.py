"""Check the user's model and data; errors name the tensor, or the split and index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from paretopress.core.model_inputs import Inputs, size_of, tensors
from paretopress.errors import DataError, ModelError, typed_line, users_line
from paretopress.intake.datasets.data import Data, Split, labels_of, split_size
from paretopress.intake.onnx_module import OnnxGraph
from paretopress.system.batch_loading import collate, inputs_of, load_items
from paretopress.system.seeding import seeded
from paretopress.tasks.base import Task
from paretopress.tasks.binary import YesOrNo
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.label_forms import OneHot
from paretopress.tasks.segmentation import Segmentation

_STATISTICS = ("running_mean", "running_var")
ITEMS = 16  # read of each split where it tells its labels
ITEMS_WITHOUT_LABELS = 512
CHUNK = 64
PROBE_BATCH = 2
NAMED = 3


def check_model(model: object) -> None:
    """Return if `model` is a module with parameters, all of them and all buffers finite. Raises: ModelError: it is not."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module, but got {type(model).__name__}", "Hand over the module, not its state dict.")
    if next(model.parameters(), None) is None and not isinstance(model, OnnxGraph):
        raise ModelError(f"a model must have parameters, but got none in {type(model).__name__}", "There is nothing to compress.")
    buffers = dict(model.named_buffers())
    for name, tensor in chain(model.named_parameters(), buffers.items()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(
                f"all tensors must hold values, but got an uninitialised one at {name}", "Run the model once, or load its weights."
            )
        is_mask = name in buffers and not name.endswith(_STATISTICS)  # -inf in it means: look away
        bad = int((tensor.isnan() if is_mask else ~torch.isfinite(tensor)).sum())
        if bad:
            raise ModelError(
                f"parameters and buffers must be finite, but got {bad} NaN or inf of {tensor.numel()} at {name}", "Did training diverge?"
            )


def check_data(data: Data, outputs_of_model: Callable[..., Any]) -> None:
    """Return if the model takes the data, and its outputs fit their labels for the task.

    Reads the first 16 items of each split and all labels that it tells through `.targets` or `.labels`; else the first 512 items. Of 64
    others the inputs are looked at: photos of another camera may come later.
    The global random generators are left as they were.

    Args:
        outputs_of_model: the model, its inputs -> its outputs.
    Raises: DataError: an item is not (x, label), x is not float32 or int64 of the one shape or not finite, a class label is not an
        integer in range, the class names are not as many as the outputs, or the model does not accept x. ModelError: the outputs are not
        finite, or not what the task needs.
    """
    classes = isinstance(getattr(data.task, "learnt_as", data.task), Classification) and not isinstance(data.task, OneHot)
    with seeded(0):  # augmentation draws from the global generators
        told = {name: labels_of(split) if classes else None for name, split in data.splits().items()}
        shapes: list[tuple[int, ...]] = []
        seen: dict[str, list[int]] = {}
        for name, split in data.splits().items():
            seen[name] = []
            for index, item in _items(name, split, ITEMS_WITHOUT_LABELS if classes and told[name] is None else ITEMS):
                x, label = _inputs_and_label(item, name, index)
                shapes = shapes or [tuple(part.shape) for part in x]
                _check_inputs(x, shapes, name, index)
                if classes:
                    seen[name].append(_class_label(label, name, index))
            for index, item in _random_items(name, split):
                _check_inputs(_inputs_and_label(item, name, index)[0], shapes, name, index)
        probe, targets = collate(load_items(data.val, [0] * PROBE_BATCH))
    outputs = _probed(outputs_of_model, probe)
    wrong = data.task.check(outputs, targets)
    if wrong:
        shape = ", ".join(str(tuple(part.shape)) for part in tensors(probe))
        raise ModelError(f"the model's output must fit the task {data.task.metric.name}: {wrong}, for x of shape {shape}")
    if not all(torch.isfinite(output).all() for output in outputs if output.is_floating_point()):
        raise ModelError("the model's output must be finite, but got NaN or inf for the first validation item")
    _check_names(data, outputs[0].shape)
    if classes:
        for name, labels in told.items():
            _check_range(torch.tensor(seen[name]), outputs[0].shape[1], name)
            if labels is not None:
                _check_range(labels, outputs[0].shape[1], name)


# task -> the axis of its first output that holds a value for each class
_CLASS_AXES: dict[type, int] = {Classification: 1, Segmentation: 1, Detection: 2}


def has_class_axis(task: Task) -> bool:
    """Return whether the first output of a task's models has a value for each class, so that classes can have names."""
    return type(getattr(task, "learnt_as", task)) in _CLASS_AXES


def names_of_outputs(data: Data, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the class names of the values of the first output, whose shape is without the items; () where they are of something else.

    Of two names for one logit the second is that of "yes".
    """
    if has_class_axis(data.task):
        return data.classes
    names = data.classes[1:] if len(data.classes) == 2 and tuple(shape) == (1,) else data.classes
    return names if isinstance(data.task, YesOrNo) and tuple(shape) == (len(names),) else ()


def _check_names(data: Data, shape: Sequence[int]) -> None:
    """Raise DataError if there is not one class name for each value that the first output has for the classes."""
    axis = _CLASS_AXES.get(type(getattr(data.task, "learnt_as", data.task)))
    if axis is not None and data.classes and len(data.classes) != shape[axis]:
        names = ", ".join(data.classes[:NAMED]) + (", ..." if len(data.classes) > NAMED else "")
        raise DataError(
            f"the data must name as many classes as the model puts out, {shape[axis]}, but got {len(data.classes)} names: {names}",
            "Give the data's `classes` a name for each output, or leave them empty.",
        )


def _items(name: str, split: Split, count: int) -> Iterator[tuple[int, object]]:
    count = min(count, split_size(split, name))
    for start in range(0, count, CHUNK):
        indices = range(start, min(start + CHUNK, count))
        try:
            items = load_items(split, indices)
        except Exception as error:
            raise DataError(
                f"items must be readable, but got {typed_line(error)} at {name}[{start}:{indices.stop}]{users_line(error)}"
            ) from error
        yield from zip(indices, items, strict=True)


def _random_items(name: str, split: Split) -> Iterator[tuple[int, object]]:
    size = split_size(split, name)
    for index in torch.randperm(size, generator=torch.Generator().manual_seed(0))[:CHUNK].tolist():
        try:
            (item,) = load_items(split, [index])
        except Exception as error:
            raise DataError(f"items must be readable, but got {typed_line(error)} at {name}[{index}]{users_line(error)}") from error
        yield index, item


def _inputs_and_label(item: object, name: str, index: int) -> tuple[tuple[Tensor, ...], object]:
    if isinstance(item, tuple | list) and len(item) > 2:
        named = ", ".join(f"x{number}" for number in range(1, len(item)))
        raise DataError(
            f"an item must be (x, label), but got {len(item)} parts at {name}[{index}]",
            f"Return (({named}), label): the inputs of the model as one tuple, or as a dict by the names of its arguments.",
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"an item must be (x, label), but got {type(item).__name__} at {name}[{index}]")
    x, label = item
    try:
        parts = inputs_of(x)
    except TypeError as error:
        raise DataError(f"{error} at {name}[{index}]", "Add transforms.ToTensor() to the dataset.") from error
    return parts, label


def _class_label(label: object, name: str, index: int) -> int:
    if isinstance(label, Tensor) and label.ndim == 0 and not (label.is_floating_point() or label.dtype == torch.bool):
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise DataError(f"a label must be an integer, but got {label!r} at {name}[{index}]", "Give the index of the class.")
    return int(label)


def _check_inputs(x: tuple[Tensor, ...], shapes: list[tuple[int, ...]], name: str, index: int) -> None:
    if len(x) != len(shapes):
        raise DataError(f"all items must have {len(shapes)} inputs as the first, but got {len(x)} at {name}[{index}]")
    for part, shape in zip(x, shapes, strict=True):
        _check_input(part, shape, name, index)


def _check_input(x: Tensor, shape: tuple[int, ...], name: str, index: int) -> None:
    if x.dtype not in (torch.float32, torch.int64) or x.ndim == 0:
        raise DataError(
            f"x must be float32 or int64 with axes, (C, H, W) for an image, but got {x.dtype} of shape {tuple(x.shape)} at {name}[{index}]"
        )
    if x.shape != shape:
        raise DataError(
            f"all x must have the shape of the first, {shape}, but got shape={tuple(x.shape)} at {name}[{index}]",
            "Resize and crop to one size.",
        )
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise DataError(f"x must be finite, but got NaN or inf at {name}[{index}]")


def _probed(outputs_of_model: Callable[..., Any], probe: Inputs) -> tuple[Tensor, ...]:
    try:
        with torch.no_grad():
            value = outputs_of_model(*tensors(probe))
    except Exception as error:
        shape = ", ".join(str(tuple(part.shape)) for part in tensors(probe))
        hint = "Do model and data belong together? x is (N, C, H, W) of images."
        raise DataError(f"the model must accept x of shape {shape}, but it raised {typed_line(error)}{users_line(error)}", hint) from error
    parts = list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple | list) else [value]
    found = tuple(part for part in parts if isinstance(part, Tensor))
    if not found or any(part.ndim == 0 or len(part) != size_of(probe) for part in found):
        raise ModelError(
            f"the model must return tensors with one row an item, but got {type(value).__name__} for {size_of(probe)} items",
            "Lists of boxes or of dicts are not supported yet: hand over a model that returns the raw outputs.",
        )
    return found


def _check_range(labels: Tensor, classes: int, name: str) -> None:
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        index = int(wrong[0])
        hint = f"{len(wrong)} of {len(labels)} labels are out of range: the model has {classes} outputs."
        raise DataError(f"0 <= label < {classes} must hold, but got label={int(labels[index])} at {name}[{index}]", hint)
