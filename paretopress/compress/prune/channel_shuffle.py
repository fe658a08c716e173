"""Channel shuffle as a module, so that what it does is known by its type."""

from __future__ import annotations

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
        parts: Tensor = x.unflatten(1, (self.groups, -1))  # type: ignore[no-untyped-call]  # untyped in torch
        return parts.transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """Return the groups and channels."""
        return f"groups={self.groups}, channels={self.channels}"
