"""Boxes and scores from the outputs of detectors, and non-maximum suppression; numpy alone, so that a bundle can carry this file.

Boxes are (x1, y1, x2, y2) in pixels of the model's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# outputs, (rows, columns) of the input -> boxes (N, candidates, 4), scores (N, candidates, classes) in [0, 1]
Decoder = Callable[[Sequence[Array], tuple[int, int]], tuple[Array, Array]]
_FINEST = 8  # pixels between two cells of the finest map, in the YOLO family
_MOST_LOG_SCALE = float(np.log(1000.0 / 16.0))  # of a box to its default box, as torchvision bounds it


def decode_yolo(outputs: Sequence[Array], size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the boxes and scores of an anchor-free YOLO head (YOLOv8 and later).

    Args:
        outputs: the maps of the levels, each (N, 4 * bins + classes, rows, columns), finest first; or two outputs for the cells of all
            levels, boxes (N, 4 * bins, cells) and class logits (N, classes, cells); or what the model decoded itself,
            (N, 4 + classes, candidates): centre and size in pixels, then probabilities.
    Source: Li et al. 2020, "Generalized focal loss", section 3.2: a side's distance is the mean of a softmax over the bins.
    """
    if len(outputs) == 2 and all(output.ndim == 3 for output in outputs):
        return _decode_levels(_levels_of(outputs, size), size, outputs[0].shape[1] // 4)
    if outputs[0].ndim == 3:
        decoded = outputs[0].transpose(0, 2, 1)
        return _corners(decoded[..., :4]), decoded[..., 4:]
    return _decode_levels(outputs, size, bins_of(outputs))


def _levels_of(outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
    """Return boxes and class logits of the cells of all levels as the maps of the levels; the finest has a cell for 8 pixels."""
    cells = np.concatenate(outputs, axis=1)
    maps, start, stride = [], 0, _FINEST
    while start < cells.shape[2]:
        rows, columns = size[0] // stride, size[1] // stride
        maps.append(cells[:, :, start : start + rows * columns].reshape(*cells.shape[:2], rows, columns))
        start, stride = start + rows * columns, 2 * stride
    return maps


def _decode_levels(levels: Sequence[Array], size: tuple[int, int], bins: int) -> tuple[Array, Array]:
    boxes, scores = [], []
    for level in levels:
        count, _, rows, columns = level.shape
        stride = size[0] / rows
        sides = level[:, : 4 * bins].reshape(count, 4, bins, rows * columns)
        distances = (softmax(sides, axis=2) * np.arange(bins).reshape(1, 1, bins, 1)).sum(axis=2) if bins > 1 else sides[:, :, 0]
        centres = _centres(rows, columns)
        near, far = centres - distances[:, :2], centres + distances[:, 2:]
        boxes.append(np.concatenate([near, far], axis=1).transpose(0, 2, 1) * stride)
        scores.append(sigmoid(level[:, 4 * bins :].reshape(count, -1, rows * columns)).transpose(0, 2, 1))
    return np.concatenate(boxes, axis=1), np.concatenate(scores, axis=1)


def bins_of(outputs: Sequence[Any]) -> int:
    """Return how many bins the distance of a side has: 16 as the YOLO family's default where there are so many channels, else 1."""
    return 16 if outputs[0].shape[1] > 64 else 1


def decode_yolox(outputs: Sequence[Array], size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the boxes and scores of a YOLOX head: maps (N, 5 + classes, rows, columns), or rows of them (N, candidates, 5 + classes).

    Source: Ge et al. 2021, "YOLOX: exceeding YOLO series in 2021", section 2.1; offsets in cells and logarithms of sizes in cells.
    """
    if outputs[0].ndim == 4:
        shapes = [level.shape[2:] for level in outputs]
        flat = np.concatenate([level.reshape(*level.shape[:2], -1).transpose(0, 2, 1) for level in outputs], axis=1)
    else:
        flat = outputs[0]
        shapes = [(size[0] // stride, size[1] // stride) for stride in (_FINEST, 2 * _FINEST, 4 * _FINEST)]
    centres = np.concatenate([_centres(*shape).T - 0.5 for shape in shapes])
    strides = np.concatenate([np.full((rows * columns, 1), size[0] / rows) for rows, columns in shapes])
    places, sizes = (flat[..., :2] + centres) * strides, np.exp(flat[..., 2:4]) * strides
    return _corners(np.concatenate([places, sizes], axis=-1)), _probable(flat[..., 4:5]) * _probable(flat[..., 5:])


def decode_ssd(outputs: Sequence[Array], size: tuple[int, int], anchors: Array) -> tuple[Array, Array]:
    """Return the boxes and scores of an SSD head.

    Args:
        outputs: offsets (N, candidates, 4) of the default boxes' centres and sizes, and class logits (N, candidates, 1 + classes), the
            background first; in either order. anchors: (candidates, 4) the default boxes.
    Source: Liu et al. 2016, "SSD", section 2.2, with the variances 0.1 and 0.2 of its code.
    Raises: ValueError: another number of candidates.
    """
    offsets, logits = ssd_parts(outputs)
    if offsets.shape[1:] != anchors.shape:
        raise ValueError(f"there are {len(anchors)} default boxes, but {offsets.shape[1]} candidates: images of {size} are of another size")
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2.0 + 0.1 * offsets[..., :2] * sizes
    sizes = np.exp(np.minimum(0.2 * offsets[..., 2:], _MOST_LOG_SCALE)) * sizes
    return _corners(np.concatenate([centres, sizes], axis=-1)), softmax(logits, axis=2)[..., 1:]


def ssd_parts(outputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return the offsets and the class logits of an SSD head; raises ValueError if they are not of that form."""
    if len(outputs) != 2 or any(output.ndim != 3 for output in outputs) or 4 not in (output.shape[2] for output in outputs):
        raise ValueError("an SSD head puts out offsets (N, candidates, 4) and class logits (N, candidates, 1 + classes)")
    first, second = outputs
    return (first, second) if first.shape[2] == 4 else (second, first)


def _probable(values: Array) -> Array:
    """Return probabilities of logits, or what are probabilities already."""
    return values if values.min() >= 0.0 and values.max() <= 1.0 else sigmoid(values)


DECODERS = ("yolo", "yolox", "ssd")


def decoder_of(name: str, anchors: Sequence[Sequence[float]] = ()) -> Decoder:
    """Return one of `DECODERS` by its name; "ssd" with its default boxes (candidates, 4)."""
    if name == "ssd":
        return partial(decode_ssd, anchors=np.asarray(anchors, np.float64).reshape(-1, 4))
    return {"yolo": decode_yolo, "yolox": decode_yolox}[name]


def suppressed(boxes: Array, scores: Array, least_score: float, overlap: float, most: int) -> tuple[Array, Array, Array]:
    """Return (boxes, scores, classes) of one photo that are left: the best first, none that overlaps a better one of its class.

    Args:
        boxes: (candidates, 4). scores: (candidates, classes). overlap: intersection over union above which the worse one goes.
    """
    candidates, classes = np.nonzero(scores > least_score)
    values = scores[candidates, classes]
    order = np.argsort(-values, kind="stable")[: 30 * most]
    places, kinds, values = boxes[candidates[order]], classes[order], values[order]
    apart = places + (kinds * (float(np.abs(places).max(initial=0.0)) * 2.0 + 1.0))[:, None]  # boxes of two classes do not overlap then
    kept: list[int] = []
    waiting = np.arange(len(values))
    while len(waiting) and len(kept) < most:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[overlaps(apart[best : best + 1], apart[waiting])[0] <= overlap]
    return places[kept], values[kept], kinds[kept]


def overlaps(boxes: Array, others: Array) -> Array:
    """Return (boxes, others) the intersection over union of each two boxes."""
    sides = [
        np.minimum(boxes[:, None, axis + 2], others[None, :, axis + 2]) - np.maximum(boxes[:, None, axis], others[None, :, axis])
        for axis in (0, 1)
    ]
    shared = np.maximum(sides[0], 0.0) * np.maximum(sides[1], 0.0)
    mine, theirs = (np.maximum(part[:, 2] - part[:, 0], 0.0) * np.maximum(part[:, 3] - part[:, 1], 0.0) for part in (boxes, others))
    return np.asarray(shared / np.maximum(mine[:, None] + theirs[None] - shared, 1e-9))


def letterboxed(width: int, height: int, size: int) -> tuple[float, int, int]:
    """Return the scale of a photo in a square of `size`, and the pixels left of it and above it."""
    scale = min(size / width, size / height)
    return scale, (size - max(round(width * scale), 1)) // 2, (size - max(round(height * scale), 1)) // 2


def sigmoid(values: Array) -> Array:
    """Return 1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0.0, 1.0 / (1.0 + small), small / (1.0 + small))


def softmax(values: Array, axis: int) -> Array:
    """Return exp(x) over its sum along an axis."""
    raised = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def _centres(rows: int, columns: int) -> Array:
    """Return (2, rows * columns): x and y of the centres of the cells of a map, in cells."""
    y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    return np.stack([x.ravel(), y.ravel()])


def _corners(boxes: Array) -> Array:
    """Return (..., 4) corners of centres and sizes."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2.0
    return np.concatenate([centre - half, centre + half], axis=-1)
