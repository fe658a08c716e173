"""A small model and data for faults.py: in an evaluating process they fail once if a file beside this one asks for it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

RAISES_AT, BATCH = 1_000, 8
HERE = Path(__file__).parent


def evaluates() -> bool:
    """Return whether this process evaluates plans; asked at each read, for what a module holds is part of what names the data."""
    return "paretopress.run.evaluator_main" in " ".join(sys.orig_argv)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [Block(32) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


class Faulty(Dataset[tuple[Tensor, Tensor]]):
    """Raises at its thousandth batch, or takes memory until there is none, once."""

    def __init__(self, inner: TensorDataset) -> None:
        self.inner, self.read = inner, 0

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        if not evaluates():
            return self.inner[index]
        if self.read >= RAISES_AT * BATCH and (HERE / "raise").exists():
            (HERE / "raise").unlink()
            raise OSError(f"batch {RAISES_AT} cannot be read")
        if (HERE / "devour").exists():
            (HERE / "devour").unlink()
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
            torch.zeros(2**30)
        return self.inner[index]


def data() -> tuple[Dataset[tuple[Tensor, Tensor]], TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorDataset:
        return TensorDataset(torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 10, (count,), generator=generator))

    return Faulty(split(256)), split(64), split(64)
