"""Batches of a model's inputs: a tensor (N, ...), or a tuple of them where the model takes several, all with the same N."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from paretopress.core.model_graph import TensorSpec

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
_Array = TypeVar("_Array", Tensor, np.ndarray)
# a model is run in pieces of about so many input values, but of so many items: 512 photos of 128 x 128 through an EfficientNet-lite0 took
# 8.2 s in one piece and 1.5 s so, 512 of 32 x 32 through a MobileNetV2 2.5 and 0.4 s (torch, two threads of an AMD EPYC)
_PIECE_VALUES, _PIECE_ITEMS = 400_000, (8, 32)


def tensors(x: Inputs) -> tuple[Tensor, ...]:
    """Return the inputs in the order in which the model takes them."""
    return (x,) if isinstance(x, Tensor) else x


def like(x: Inputs, made: Iterable[Tensor]) -> Inputs:
    """Return tensors in the form of `x`: one, or a tuple."""
    parts = tuple(made)
    return parts[0] if isinstance(x, Tensor) else parts


def size_of(x: Inputs) -> int:
    """Return N."""
    return len(tensors(x)[0])


def taken(x: Inputs, count: int) -> Inputs:
    """Return the first items."""
    return like(x, (part[:count] for part in tensors(x)))


def split(x: Inputs, size: int) -> list[Inputs]:
    """Return batches of so many items; the last may have fewer."""
    return [like(x, parts) for parts in zip(*(torch.split(part, size) for part in tensors(x)), strict=True)]


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Return one batch of several."""
    return like(batches[0], (torch.cat(parts) for parts in zip(*map(tensors, batches), strict=True)))


def channels_last(x: Tensor) -> Tensor:
    """Return images or weights of four axes in channels-last order, in which torch is fastest on CPUs; another tensor as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def outputs_in_pieces(module: nn.Module, x: Inputs) -> tuple[Tensor, ...]:
    """Return the outputs of a module in eval mode for a batch, run in pieces whose activations stay in the caches; no gradients.

    An output that has no axis of items is the same for every piece.
    """
    step = items_at_a_time(tensors(x))
    with torch.inference_mode():
        found = [outputs_of(module(*map(channels_last, tensors(piece)))) for piece in split(x, step)]
    return tuple(whole(outputs, min(step, size_of(x))) for outputs in zip(*found, strict=True))


def items_at_a_time(parts: Sequence[_Array]) -> int:
    """Return how many items of tensors or arrays (N, ...) are run at a time, for their activations to stay in the caches."""
    fewest, most = _PIECE_ITEMS
    return max(fewest, min(_PIECE_VALUES // max(sum(math.prod(part.shape[1:]) for part in parts), 1), most))


def whole(outputs: Sequence[_Array], items: int) -> _Array:
    """Return the pieces of an output in one; the first piece has so many items. What has no axis of items is the same for every piece.

    Raises: ValueError: arrays without any axis.
    """
    first = outputs[0]
    if isinstance(first, np.ndarray):
        same = first.ndim > 0 and len(first) != items and all(np.array_equal(first, other) for other in outputs[1:])
        return first if same else np.concatenate(outputs)
    same = first.ndim == 0 or (len(first) != items and all(torch.equal(first, other) for other in outputs[1:]))
    return first if same else torch.cat(tuple(outputs))


def values_of_an_item(x: Inputs) -> int:
    """Return how many numbers one item holds."""
    return sum(part[0].numel() for part in tensors(x))


def arrays(x: Inputs) -> tuple[np.ndarray, ...]:
    """Return the inputs as arrays."""
    return tuple(part.numpy() for part in tensors(x))


def feeds(names: Sequence[str], batches: Iterable[Inputs]) -> Iterator[dict[str, np.ndarray]]:
    """Yield what ONNX Runtime takes, batch by batch."""
    return (dict(zip(names, arrays(x), strict=True)) for x in batches)


def zeros(specs: Sequence[TensorSpec], count: int) -> Inputs:
    """Return a batch of zeros for inputs that are described so; a zero is the first token, too."""
    made = tuple(torch.zeros(count, *spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)
    return made[0] if len(made) == 1 else made


def pieces(parts: Sequence[_Array], shape: Sequence[object], most: int | None = None) -> Iterator[tuple[_Array, ...]]:
    """Yield tensors or arrays (N, ...) in pieces of the batch size that a file's input of such a shape has.

    Where that is dynamic, in pieces of `most` items, by default whole. Of a fixed size, the last piece is filled up with its last item: of
    what comes out the first N rows count.
    """
    fixed, count = fixed_batch(shape), len(parts[0])
    step = fixed or most or max(count, 1)
    for start in range(0, count, step):
        if fixed and start + step > count:
            rows = [min(row, count - 1) for row in range(start, start + step)]
            yield tuple(part[rows] for part in parts)
        else:
            yield tuple(part[start : start + step] for part in parts)


def fixed_batch(shape: Sequence[object]) -> int | None:
    """Return the batch size that a file's input of such a shape has, None if it takes any."""
    first = next(iter(shape), None)
    return first if isinstance(first, int) and first > 0 else None


def outputs_of(value: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what a traced model puts out as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)
