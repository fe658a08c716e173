"""Activations at sampled output positions, as the rows of a least-squares problem."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchSampling:
    """The same positions of every image for all feature maps of a size, so that inputs and outputs of different models can be paired.

    Rows come image after image: the last images are the last rows.
    """

    def __init__(self, images: int, rows: int, seed: int) -> None:
        self._images, self._each, self._seed = images, max(1, math.ceil(rows / images)), seed
        self._drawn: dict[int, Tensor] = {}

    def fit(self, value: Tensor, *, channels_last: bool) -> bool:
        """Return whether `rows` can take the value: a row of it per image."""
        return len(value) == self._images and (value.ndim in (2, 4) or (channels_last and value.ndim > 2))

    def of(self, size: int) -> Tensor:
        """Return (images, positions) int64: distinct places in a flattened map of so many."""
        if size not in self._drawn:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + size)
            order = torch.rand(self._images, size, generator=generator).argsort(dim=1)
            self._drawn[size] = order[:, : self._each].contiguous()
        return self._drawn[size]

    def rows(self, value: Tensor, *, channels_last: bool = False) -> Tensor:
        """Return (rows, C) of a feature map (N, C, H, W), of (N, ..., C) with the channels last, or of (N, C) as it is; a copy."""
        if value.ndim == 2:
            return value.clone()
        if channels_last:
            flat = value.flatten(1, -2)
            return flat[torch.arange(len(flat))[:, None], self.of(flat.shape[1])].flatten(0, 1)
        places, width = self.of(value.shape[2] * value.shape[3]), value.shape[3]
        images = torch.arange(len(value))[:, None]
        return value[images, :, places // width, places % width].flatten(0, 1)

    def patches(self, x: Tensor, layer: nn.Conv2d | nn.Linear) -> Tensor:
        """Return (rows, features): what the layer multiplies with its weights, flattened, at the sampled positions of its output.

        Args: x: (N, C, H, W) for a Conv2d with numeric zero padding, (N, ..., features) for a Linear.
        """
        if isinstance(layer, nn.Linear):
            return self.rows(x, channels_last=True)
        assert not isinstance(layer.padding, str)
        (height, width), (down, right), (top, left) = layer.kernel_size, layer.stride, layer.padding
        steps_down, steps_right = layer.dilation
        padded = F.pad(x, (left, left, top, top))
        outputs = [
            (size - step * (kernel - 1) - 1) // stride + 1
            for size, step, kernel, stride in zip(padded.shape[2:], layer.dilation, layer.kernel_size, layer.stride, strict=True)
        ]
        places = self.of(outputs[0] * outputs[1])[:, :, None, None]
        rows = places // outputs[1] * down + (torch.arange(height) * steps_down)[:, None]
        columns = places % outputs[1] * right + torch.arange(width) * steps_right
        taken = padded[torch.arange(len(x))[:, None, None, None], :, rows, columns]  # images, positions, rows, columns, channels
        return taken.permute(0, 1, 4, 2, 3).flatten(2).flatten(0, 1)
