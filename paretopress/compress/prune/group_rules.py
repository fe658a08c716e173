"""Rules for channel groups that torch-pruning does not handle: how each kind is pruned, silenced and ranked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from paretopress.compress.prune.attention_heads import least_important_heads, prune_heads, silence_heads
from paretopress.compress.prune.mlp_widths import is_mlp_width
from paretopress.compress.prune.recurrent_units import Recurrent, columns_of_units, least_important_units, prune_units, silence_units
from paretopress.core.model_graph import ChannelGroup

Change = Callable[[nn.Module, ChannelGroup, Sequence[int]], None]


@dataclass(frozen=True, slots=True)
class GroupRule:
    """How to prune, silence and rank the channels of one kind of group.

    Attributes:
        prune: removes channels in place.
        silence: sets the outputs of channels to zero in place.
        least_important: returns the channels to remove when so many are to remain, in rising order.
        columns: returns the input columns, of the layers that read the group, that belong to some of its channels in the original model.
    """

    prune: Change
    silence: Change
    least_important: Callable[[nn.Module, ChannelGroup, int], list[int]]
    columns: Callable[[nn.Module, ChannelGroup, Sequence[int]], list[int]] = lambda _, __, channels: list(channels)


_HEADS = GroupRule(prune_heads, silence_heads, least_important_heads)
_UNITS = GroupRule(prune_units, silence_units, least_important_units, columns_of_units)


def rule_for(module: nn.Module, group: ChannelGroup) -> GroupRule | None:
    """Return the rule of a group, None for one that torch-pruning handles."""
    if group.unit > 1 or is_mlp_width(module, group):  # a unit of a chain is a head of width 1: a row of one layer, a column of the next
        return _HEADS
    return _UNITS if isinstance(module.get_submodule(group.layers[0]), Recurrent) else None
