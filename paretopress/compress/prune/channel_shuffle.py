"""Channel shuffle as a module, so that a dependency graph sees it; torch-pruning 1.6 cannot follow its reshapes."""

from __future__ import annotations

from typing import Any

import torch_pruning as tp
from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """(N, C, ...) -> (N, C, ...): channel g * (C / groups) + i goes to i * groups + g (Zhang et al. 2018, "ShuffleNet", section 3.1)."""

    def __init__(self, groups: int, channels: int) -> None:
        """Raises: ValueError: the channels are no multiple of the groups."""
        super().__init__()
        if channels % groups:
            raise ValueError(f"channels must be a multiple of groups, but got channels={channels} and groups={groups}")
        self.groups, self.channels = groups, channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled feature map."""
        parts: Tensor = x.unflatten(1, (self.groups, self.channels // self.groups))  # type: ignore[no-untyped-call]  # untyped in torch
        return parts.transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """Return the groups and channels."""
        return f"groups={self.groups}, channels={self.channels}"


class ShuffleBarrier(tp.BasePruningFunc):  # type: ignore[misc]  # torch-pruning is untyped
    """Tells torch-pruning that a shuffle has channels; a group that reaches one is refused, so nothing is ever pruned here."""

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        """Raise: see the class."""
        raise NotImplementedError(f"channels cannot be removed from a {type(layer).__name__}: {len(idxs)} were asked for")

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Return the number of channels."""
        return int(layer.channels)

    get_in_channels = get_out_channels
