"""Fashion-MNIST as pictures, and a small residual network that classifies them, as a user of paretopress would hand them over.

The photos are those of fashion.py. `data()` and `residual()` are the factories that benchmarks/reachable.py names.
"""

from __future__ import annotations

import itertools

import fashion
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = fashion.HERE / "weights" / "fashion_residual.safetensors"
WIDTHS = (20, 40, 80)


class Pictures(fashion.Rows):
    """Photos (1, 28, 28) float32 of mean 0 and deviation 1, with labels."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rows, label = super().__getitem__(index)
        return rows[None], label


def data() -> tuple[Pictures, Pictures, Pictures]:
    """Return train 55,000, val 5,000, test 10,000; the network was trained on the same 55,000."""
    train, val, test = (Pictures(split.photos, split.labels) for split in fashion.data())
    return train, val, test


def unit(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with its batch norm."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels))


class Residual(nn.Module):
    """Three stages of a strided convolution and two residual blocks each; 20, 40 and 80 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(1, WIDTHS[0])
        self.downs = nn.ModuleList(unit(a, b, 2) for a, b in itertools.pairwise(WIDTHS))
        self.first = nn.ModuleList(unit(width, width) for width in WIDTHS for _ in range(2))
        self.second = nn.ModuleList(unit(width, width) for width in WIDTHS for _ in range(2))
        self.fc = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 10) of photos (N, 1, 28, 28)."""
        x = torch.relu(self.stem(x))
        for index, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            if index in (2, 4):
                x = torch.relu(self.downs[index // 2 - 1](x))
            x = torch.relu(x + second(torch.relu(first(x))))
        return self.fc(x.mean((2, 3)))


def residual() -> nn.Module:
    """Return the network with its weights."""
    model = Residual()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
