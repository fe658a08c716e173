"""Check the user's model and data before any work: what is wrong is said with the tensor, or the split and index, where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from paretopress.errors import DataError, ModelError
from paretopress.fetch import fetch
from paretopress.intake.data import Data, Split, labels_of, split_size

ITEMS = 16  # read of each split where it tells its labels
ITEMS_WITHOUT_LABELS = 512
CHUNK = 64
PROBE_BATCH = 2


def check_model(model: object) -> None:
    """Return if `model` is a module with parameters, all of them and all buffers finite. Raises: ModelError: it is not."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"a model must be a torch.nn.Module, but got {type(model).__name__}", "Hand over the module, not its state dict.")
    if next(model.parameters(), None) is None:
        raise ModelError(f"a model must have parameters, but got none in {type(model).__name__}", "There is nothing to compress.")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(
                f"all tensors must hold values, but got an uninitialised one at {name}", "Run the model once, or load its weights."
            )
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ModelError(
                f"parameters and buffers must be finite, but got {bad} NaN or inf of {tensor.numel()} at {name}", "Did training diverge?"
            )


def check_data(data: Data, logits_of: Callable[[Tensor], Tensor]) -> int:
    """Return the number of classes, which is the width of the model's output.

    Reads the first 16 items of each split and all labels that it tells through `.targets` or `.labels`; else the first 512 items.
    The global random generator is left as it was.

    Args:
        logits_of: the model, x (N, C, H, W) -> logits (N, classes).
    Raises: DataError: an item is not (x, label), x is not float32 of the one shape or not finite, a label is not an integer in
        range, or the model does not accept x. ModelError: the model's output is not finite and (N, classes).
    """
    with torch.random.fork_rng(devices=[]):  # augmentation draws from it
        told = {name: labels_of(split) for name, split in data.splits().items()}
        shape: tuple[int, ...] | None = None
        seen: dict[str, list[int]] = {}
        for name, split in data.splits().items():
            seen[name] = []
            for index, item in _items(name, split, ITEMS_WITHOUT_LABELS if told[name] is None else ITEMS):
                x, label = _image_and_label(item, name, index)
                shape = shape or tuple(x.shape)
                _check_image(x, shape, name, index)
                seen[name].append(label)
        probe = torch.stack([x for x, _ in fetch(data.val, [0] * PROBE_BATCH)])
    classes = _output_width(logits_of, probe)
    for name, labels in told.items():
        _check_range(torch.tensor(seen[name]), classes, name)
        if labels is not None:
            _check_range(labels, classes, name)
    return classes


def _items(name: str, split: Split, count: int) -> Iterator[tuple[int, object]]:
    count = min(count, split_size(split, name))
    for start in range(0, count, CHUNK):
        indices = range(start, min(start + CHUNK, count))
        try:
            items = fetch(split, indices)
        except Exception as error:
            raise DataError(f"items must be readable, but got {_first_line(error)} at {name}[{start}:{indices.stop}]") from error
        yield from zip(indices, items, strict=True)


def _image_and_label(item: object, name: str, index: int) -> tuple[Tensor, int]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"an item must be (x, label), but got {type(item).__name__} at {name}[{index}]")
    x, label = item
    if not isinstance(x, Tensor):
        raise DataError(f"x must be a tensor, but got {type(x).__name__} at {name}[{index}]", "Add transforms.ToTensor() to the dataset.")
    if isinstance(label, Tensor) and label.ndim == 0 and not (label.is_floating_point() or label.dtype == torch.bool):
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise DataError(f"a label must be an integer, but got {label!r} at {name}[{index}]", "Give the index of the class.")
    return x, int(label)


def _check_image(x: Tensor, shape: tuple[int, ...], name: str, index: int) -> None:
    if x.dtype != torch.float32 or x.ndim != 3:
        raise DataError(f"x must be float32 of shape (C, H, W), but got {x.dtype} of shape {tuple(x.shape)} at {name}[{index}]")
    if x.shape != shape:
        raise DataError(
            f"all x must have the shape of the first, {shape}, but got shape={tuple(x.shape)} at {name}[{index}]",
            "Resize and crop to one size.",
        )
    if not torch.isfinite(x).all():
        raise DataError(f"x must be finite, but got NaN or inf at {name}[{index}]")


def _output_width(logits_of: Callable[[Tensor], Tensor], probe: Tensor) -> int:
    shape = tuple(probe.shape)
    try:
        with torch.no_grad():
            logits = logits_of(probe)
    except Exception as error:
        hint = "Do model and data belong together? x is (N, C, H, W)."
        raise DataError(f"the model must accept x of shape {shape}, but it raised {_first_line(error)}", hint) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(probe):
        got = f"shape={tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model's output must be logits (N, classes), but got {got} for x of shape {shape}")
    if not torch.isfinite(logits).all():
        raise ModelError(f"the model's output must be finite, but got NaN or inf for x of shape {shape}")
    return logits.shape[1]


def _check_range(labels: Tensor, classes: int, name: str) -> None:
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        index = int(wrong[0])
        hint = f"{len(wrong)} of {len(labels)} labels are out of range: the model has {classes} outputs."
        raise DataError(f"0 <= label < {classes} must hold, but got label={int(labels[index])} at {name}[{index}]", hint)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
