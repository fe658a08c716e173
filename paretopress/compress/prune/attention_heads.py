"""Prune attention heads: rows of query, key and value layers together with columns of the layer behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import Tensor, nn

from paretopress.compress.explicit.swin_attention import HeadBias
from paretopress.core.model_graph import ChannelGroup


def prune_heads(module: nn.Module, group: ChannelGroup, channels: Sequence[int]) -> None:
    """Remove channels of whole heads in place: rows of query, key and value, columns of the layers behind them, and their biases."""
    for name in group.layers:
        tp.prune_linear_out_channels(module.get_submodule(name), list(channels))
    for name in group.feeds:
        tp.prune_linear_in_channels(module.get_submodule(name), list(channels))
    for bias in (part for part in module.get_submodule(group.name.rpartition(".")[0]).children() if isinstance(part, HeadBias)):
        bias.drop(sorted({channel // group.unit for channel in channels}))


def least_important_heads(module: nn.Module, group: ChannelGroup, keep: int) -> list[int]:
    """Return the channels of the heads that go when `keep` channels remain, in rising order.

    Importance: mean L2 norm of a head's rows and columns, each layer's scaled to a mean of 1, as for other groups.
    """
    scores = torch.zeros(group.channels // group.unit)
    for name, axis in [*((name, 0) for name in group.layers), *((name, 1) for name in group.feeds)]:
        weight = module.get_submodule(name).get_parameter("weight").detach()
        blocks: Tensor = weight.transpose(0, axis).unflatten(0, (-1, group.unit))  # type: ignore[no-untyped-call]  # untyped in torch
        norms = blocks.flatten(1).norm(dim=1)
        scores += norms / norms.mean().clamp_min(1e-12)
    dropped = torch.argsort(scores, stable=True)[: (group.channels - keep) // group.unit].sort().values.tolist()
    return channels_of_heads(group, dropped)


def channels_of_heads(group: ChannelGroup, heads: Sequence[int]) -> list[int]:
    """Return the channels of some heads, in rising order."""
    return [head * group.unit + offset for head in sorted(heads) for offset in range(group.unit)]


def silence_heads(module: nn.Module, group: ChannelGroup, channels: Sequence[int]) -> None:
    """Set to zero, in place, what makes heads put out other than zero: their values, of which a head's output is a mean."""
    values = module.get_submodule(group.layers[-1])
    with torch.no_grad():
        for parameter in values.parameters(recurse=False):
            parameter[list(channels)] = 0.0
