"""The types of layer whose weights a plan can change."""

from __future__ import annotations

from torch import nn

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Weighted = Conv | nn.Linear


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the kernel of a convolution, or (1, 1) for a Linear."""
    return tuple(int(size) for size in layer.kernel_size) if isinstance(layer, Conv) else (1, 1)
