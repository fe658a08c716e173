"""Scale images to another size: bilinear with antialiasing, as a product with one small matrix per axis.

numpy alone, and Python 3.9: the bundle of a model that takes smaller images than it was given ships this file as resize.py.
Source: the filter is that of Pillow's resize, and of torch's interpolate(mode="bilinear", antialias=True).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Dict, Mapping, Sequence, Tuple  # noqa: UP035  # read by Python 3.9 too

import numpy as np

Array = np.ndarray[Any, Any]
IMAGE_AXES = 4


@functools.lru_cache(maxsize=32)
def weights(size: int, wanted: int) -> Array:
    """Return the matrix (wanted, size) float32 that scales an axis, made once, never to be changed; each row is a triangle of sum 1."""
    step = size / wanted
    reach = max(step, 1.0)
    matrix = np.zeros((wanted, size), np.float64)
    for row in range(wanted):
        centre = step * (row + 0.5)
        first, end = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size)
        taps = np.maximum(1.0 - np.abs((np.arange(first, end) + 0.5 - centre) / reach), 0.0)
        matrix[row, first:end] = taps / taps.sum()
    return matrix.astype(np.float32)


def resized(images: Array, height: int, width: int) -> Array:
    """Return images (N, C, H, W) scaled to (N, C, height, width), of their own type."""
    rows, columns = weights(images.shape[2], height), weights(images.shape[3], width)
    return np.asarray(rows @ images.astype(np.float32) @ columns.T).astype(images.dtype)


def scaled_side(size: int, share: float) -> int:
    """Return a share of the pixels of a side, rounded, but at least one."""
    return max(math.floor(share * size + 0.5), 1)


def fitted(array: Array, shape: Sequence[object]) -> Array:
    """Return an array as a file's input of such a shape takes it: images are scaled where it has another, fixed height or width."""
    if array.ndim != IMAGE_AXES or len(shape) != IMAGE_AXES or array.dtype.kind != "f":
        return array
    had = array.shape[2:]
    height, width = (side if isinstance(side, int) and side > 0 else had[axis] for axis, side in enumerate(shape[2:]))
    return array if (height, width) == had else resized(array, height, width)


def fitted_feed(feed: Mapping[str, Array], inputs: Sequence[Tuple[str, Sequence[object]]]) -> Dict[str, Array]:  # noqa: UP006
    """Return a feed as a file takes it, see `fitted`; `inputs` are the names and shapes of the file's."""
    shapes: Dict[str, Sequence[object]] = dict(inputs)  # noqa: UP006
    return {name: fitted(array, shapes.get(name, ())) for name, array in feed.items()}
