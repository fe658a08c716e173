"""Multi-head attention as plain layers, each of which can be compressed, and whole heads removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.errors import RewriteError


class Attention(nn.Module):
    """What nn.MultiheadAttention computes without masks, by four Linear layers.

    Forward names the width of a head, never their number: a head goes by removing its rows of `query`, `key` and `value` and its columns
    of `out`. Attention weights are not returned.
    Source: Vaswani et al. 2017, "Attention is all you need", section 3.2.2.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        """Take the weights of an attention that `is_plain`."""
        super().__init__()
        width = original.embed_dim
        self.head_width, self.dropout, self.batch_first = original.head_dim, original.dropout, original.batch_first
        if original.in_proj_weight is None:
            weights = [original.q_proj_weight, original.k_proj_weight, original.v_proj_weight]
        else:
            weights = list(original.in_proj_weight.chunk(3))
        self.query, self.key, self.value = three_linears(weights, original.in_proj_bias)
        self.out = plain_linear(original.out_proj.weight, original.out_proj.bias)
        assert self.out.in_features == width

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Return (outputs, None) of the shape of `query`: (N, positions, width), or (positions, N, width) without `batch_first`.

        The arguments are those of nn.MultiheadAttention in their order. `need_weights` and `average_attn_weights` concern the weights
        alone, which are not returned.
        Raises: RewriteError: a mask is given.
        """
        _no_other_arguments(key_padding_mask=key_padding_mask, attn_mask=attn_mask, is_causal=is_causal or None)
        q, k, v = (self._split(layer(x)) for layer, x in ((self.query, query), (self.key, key), (self.value, value)))
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        joined = attended.transpose(1, 2).flatten(2)
        return self.out(joined if self.batch_first else joined.transpose(0, 1)), None

    def _split(self, x: Tensor) -> Tensor:
        return split_heads(x if self.batch_first else x.transpose(0, 1), self.head_width)


def split_heads(x: Tensor, width: int) -> Tensor:
    """Return (..., heads, positions, width) of (..., positions, heads * width); their number is read off `x`."""
    heads: Tensor = x.unflatten(-1, (-1, width)).transpose(-3, -2)  # type: ignore[no-untyped-call]  # untyped in torch
    return heads


def _no_other_arguments(**given: object) -> None:
    """Raise RewriteError if an argument that a module in plain layers does not carry out is given, that is, other than None."""
    for name, value in given.items():
        if value is not None:
            raise RewriteError(f"it is called with {name}, which its form in plain layers does not carry out")


def is_plain(layer: nn.MultiheadAttention) -> bool:
    """Return whether `Attention` can stand for it: no learned or zero rows are added to keys and values."""
    return layer.bias_k is None and layer.bias_v is None and not layer.add_zero_attn


def three_linears(weights: Sequence[Tensor], bias: Tensor | None) -> list[nn.Linear]:
    """Return a Linear for each of three weights (outputs, inputs), with its third of a bias (3 * outputs,)."""
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    return [plain_linear(weight, part) for weight, part in zip(weights, biases, strict=True)]


def plain_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a Linear with copies of a weight (outputs, inputs) and a bias (outputs,)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made
