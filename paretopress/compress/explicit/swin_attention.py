"""Shifted-window attention (Swin) as plain layers, each of which can be compressed, and whole heads removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.compress.explicit.attention import plain_linear, split_heads, three_linears

if TYPE_CHECKING:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

_APART = -100.0  # added between positions that were not neighbours before the shift


class HeadBias(nn.Module):
    """What each head adds between two positions of a window, from a table (relative positions, heads) that is learnt."""

    def __init__(self, table: Tensor, index: Tensor, positions: int) -> None:
        """Take the table, and for each pair of positions the row of it."""
        super().__init__()
        self.table = nn.Parameter(table.detach().clone())
        self.register_buffer("index", index.clone())
        self.positions = positions

    def forward(self) -> Tensor:
        """Return (heads, positions, positions)."""
        return self.table[self.get_buffer("index")].view(self.positions, self.positions, -1).permute(2, 0, 1)


class WindowAttention(nn.Module):
    """What torchvision's ShiftedWindowAttention computes of maps of one size, by four Linear layers.

    Forward names the width of a head, never their number; see `Attention`. Dropout of the original is left out.
    Source: Liu et al. 2021, "Swin transformer: hierarchical vision transformer using shifted windows", section 3.2.
    """

    def __init__(self, original: ShiftedWindowAttention, size: tuple[int, int]) -> None:
        """Take the weights; `size` is (rows, columns) of the maps."""
        super().__init__()
        self.size, self.window = size, (original.window_size[0], original.window_size[1])
        self.windows = tuple(-(-length // edge) for length, edge in zip(self.size, self.window, strict=True))
        # where one window holds all there is nothing to shift
        self.shift = tuple(0 if count == 1 else step for count, step in zip(self.windows, original.shift_size, strict=True))
        self.head_width = original.proj.in_features // original.num_heads
        self.query, self.key, self.value = three_linears(original.qkv.weight.chunk(3), original.qkv.bias)
        self.out = plain_linear(original.proj.weight, original.proj.bias)
        positions = self.window[0] * self.window[1]
        self.position_bias = HeadBias(original.relative_position_bias_table, original.relative_position_index, positions)
        self.register_buffer("apart", self._shift_mask())

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, rows, columns, width) of the same shape."""
        rows, columns = (count * edge for count, edge in zip(self.windows, self.window, strict=True))
        x = F.pad(x, (0, 0, 0, columns - self.size[1], 0, rows - self.size[0]))
        if any(self.shift):
            x = torch.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        x = self._to_windows(x)
        q, k, v = (split_heads(layer(x), self.head_width) for layer in (self.query, self.key, self.value))
        between = self.position_bias()
        if any(self.shift):
            between = between + self.get_buffer("apart")
        x = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=between).transpose(-3, -2).flatten(-2))
        x = x.unflatten(2, self.window).unflatten(1, self.windows).transpose(2, 3).flatten(3, 4).flatten(1, 2)  # type: ignore[no-untyped-call]
        if any(self.shift):
            x = torch.roll(x, self.shift, (1, 2))
        return x[:, : self.size[0], : self.size[1]]

    def _to_windows(self, x: Tensor) -> Tensor:
        """Return (N, windows, positions, width) of (N, rows, columns, width)."""
        blocks: Tensor = x.unflatten(2, (self.windows[1], self.window[1])).unflatten(1, (self.windows[0], self.window[0]))  # type: ignore[no-untyped-call]
        return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _shift_mask(self) -> Tensor:
        """Return (windows, 1, positions, positions): what keeps positions apart that the shift has brought together."""
        regions = torch.zeros(1, *(count * edge for count, edge in zip(self.windows, self.window, strict=True)), 1)
        cuts = [
            [slice(0, -edge), slice(-edge, -step or None), slice(-step, None) if step else slice(0, 0)]
            for edge, step in zip(self.window, self.shift, strict=True)
        ]
        for number, (rows, columns) in enumerate((a, b) for a in cuts[0] for b in cuts[1]):
            regions[:, rows, columns] = number
        region = self._to_windows(regions).flatten(2)[0]
        return torch.where(region[:, None, :] == region[:, :, None], 0.0, _APART)[:, None]


def attends_in_windows(layer: nn.Module) -> bool:
    """Return whether `WindowAttention` can stand for a module: torchvision's of the first version, not that of a subclass."""
    kind = type(layer)
    return kind.__name__ == "ShiftedWindowAttention" and kind.__module__ == "torchvision.models.swin_transformer"
