"""Labelled images held in one tensor, normalised and augmented a whole batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from paretopress.intake.datasets.data import Sample


@dataclass(frozen=True, slots=True)
class Normalisation:
    """x = (raw * scale - mean) / std, with `mean` and `std` one number a channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor) -> Tensor:
        """Return x (N, C, H, W) float32 of raw pixels (N, C, H, W) of any dtype."""
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() * self.scale - mean) / std

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that `Data.preprocessing` carries."""
        return {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What training images undergo: a shift by up to `shift` pixels each way, and a horizontal flip with probability `flip`."""

    shift: int = 0
    flip: float = 0.0

    def apply(self, pixels: Tensor) -> Tensor:
        """Return pixels (N, C, H, W), each image changed on its own; what is shifted in is 0. Draws from torch's generator."""
        n, _, height, width = pixels.shape
        padded = nn.functional.pad(pixels, (self.shift,) * 4)
        top, left = torch.randint(0, 2 * self.shift + 1, (2, n))
        rows = top.view(n, 1) + torch.arange(height)
        columns = left.view(n, 1) + torch.arange(width)
        flipped = torch.rand(n) < self.flip
        columns[flipped] = columns[flipped].flip(1)
        images = torch.arange(n).view(n, 1, 1)
        # indices on both sides of the channel slice put that axis last: (N, H, W, C)
        return padded[images, :, rows.view(n, height, 1), columns.view(n, 1, width)].permute(0, 3, 1, 2).contiguous()


class Images(Dataset[Sample]):
    """Raw pixels (N, C, H, W) and labels (N,) in memory; items are normalised, and augmented where `augmentation` is given."""

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        normalisation: Normalisation,
        *,
        classes: tuple[str, ...] = (),
        augmentation: Augmentation | None = None,
    ) -> None:
        self.pixels, self.labels = pixels, labels
        self.normalisation, self.augmentation = normalisation, augmentation
        self.classes = classes

    @property
    def preprocessing(self) -> Mapping[str, object]:
        """How a raw image becomes x."""
        return self.normalisation.to_json()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the items at `indices`; one call a batch, because a call an item costs more than a small network's step."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self.pixels[chosen]
        if self.augmentation is not None:
            pixels = self.augmentation.apply(pixels)
        return list(zip(self.normalisation.apply(pixels), self.labels[chosen].tolist(), strict=True))
