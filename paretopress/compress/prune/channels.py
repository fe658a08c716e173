"""Prune channel groups: cut the blocks of least importance out of all that they couple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import nn

from paretopress.compress.prune.importance import magnitudes
from paretopress.compress.prune.recurrent_units import Recurrent, columns_of_units, least_important_units, prune_units
from paretopress.compress.prune.surgery import entries_of, keep_entries
from paretopress.core.model_graph import ChannelGroup, Part, Role


@dataclass(frozen=True, slots=True)
class KeptChannels:
    """Module path -> the original's output or input channels that are left, in rising order; a module that lost none is not named."""

    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def channels_of(layer: nn.Module) -> int:
    """Return the number of output channels of a convolution or Linear, or of hidden units."""
    if isinstance(layer, Recurrent):
        return layer.hidden_size
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]  # nn.Module attributes are untyped


def prune_groups(
    module: nn.Module,
    groups: Mapping[str, ChannelGroup],
    kept: Mapping[str, int],
    ranking: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> KeptChannels:
    """Prune channel groups in place, the least important blocks first, and return what is left.

    Importance: the mean magnitude of all that a block couples, see `importance.magnitudes`.

    Args:
        groups: name -> group; a group of which no layer is left in the module is passed over.
        kept: group name -> output channels of its first layer that remain, at least one block.
        ranking: group name -> its blocks, the least important first, in place of that importance; not for hidden units.
    """
    layers = dict(module.named_modules())
    present = {name for name, group in groups.items() if any(layer in layers for layer in group.layers)}
    wanted = {name: keep for name, keep in kept.items() if name in present and keep < groups[name].channels}
    outputs: dict[str, tuple[int, ...]] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    dropped = {}
    for name, keep in wanted.items():
        group = groups[name]
        if group.parts:
            ranked = ranking.get(name)
            count = group.blocks - keep // group.unit
            dropped[name] = least_important(module, group, keep) if ranked is None else sorted(ranked[:count])
        else:
            units = least_important_units(module, group, keep)
            left = _without(group.channels, units)
            outputs |= dict.fromkeys(group.layers, left)
            inputs |= dict.fromkeys(group.feeds, tuple(columns_of_units(module, group, left)))
            prune_units(module, group, units)
    for (path, role), left in cut_blocks(module, {name: groups[name] for name in dropped}, dropped).items():
        if role is not Role.INPUTS:
            outputs[path] = left
        elif getattr(layers[path], "groups", 1) == 1:  # the weights of a grouped convolution have no column for each input
            inputs[path] = left
    return KeptChannels(outputs, inputs)


def cut_blocks(
    module: nn.Module, groups: Mapping[str, ChannelGroup], dropped: Mapping[str, Sequence[int]]
) -> dict[tuple[str, Role], tuple[int, ...]]:
    """Cut blocks of some groups out of a module, in place; return (path, role) -> the entries of the original that are left.

    What several groups share, as a layer behind a concatenation, is cut once; parts that the module does not have any more are passed over.
    """
    gone: dict[tuple[str, Role], set[int]] = {}
    axes: dict[tuple[str, Role], int] = {}
    for name, blocks in dropped.items():
        for part in groups[name].parts:
            if _is_there(module, part):
                gone.setdefault((part.path, part.role), set()).update(part.of_blocks(blocks, groups[name].blocks))
                axes[part.path, part.role] = part.axis
    left: dict[tuple[str, Role], tuple[int, ...]] = {}
    for (path, role), entries in gone.items():
        left[path, role] = _without(entries_of(module, path, role, axes[path, role]), entries)
    for (path, role), keep in sorted(left.items(), key=lambda item: item[0][1] is Role.INPUTS):  # outputs first, see `keep_entries`
        keep_entries(module, path, role, keep, axes[path, role])
    return left


def least_important(module: nn.Module, group: ChannelGroup, keep: int) -> list[int]:
    """Return the blocks that go when `keep` channels of the first layer remain, in rising order."""
    present = ChannelGroup(
        group.name, group.channels, group.layers, group.feeds, group.unit, tuple(part for part in group.parts if _is_there(module, part))
    )
    order = torch.argsort(magnitudes(module, present), stable=True)
    dropped: list[int] = order[: group.blocks - keep // group.unit].sort().values.tolist()
    return dropped


def dropped_inputs(module: nn.Module, group: ChannelGroup, keeps: Sequence[int]) -> dict[int, dict[str, list[int]]]:
    """Return kept channels -> layer -> input channels that the layer loses when so many of the group remain; prunes nothing."""
    if not group.parts:
        readers = [name for name in group.feeds if isinstance(module.get_submodule(name), nn.Linear)]
        units = {keep: least_important_units(module, group, keep) for keep in keeps}
        return {keep: dict.fromkeys(readers, columns_of_units(module, group, gone)) for keep, gone in units.items()}
    read = [part for part in group.parts if part.role is Role.INPUTS and part.path in group.feeds]
    found = {}
    for keep in keeps:
        gone = least_important(module, group, keep)
        found[keep] = {part.path: part.of_blocks(gone, group.blocks) for part in read}
    return found


def _without(count: int, gone: Sequence[int] | set[int]) -> tuple[int, ...]:
    lost = set(gone)
    return tuple(entry for entry in range(count) if entry not in lost)


def _is_there(module: nn.Module, part: Part) -> bool:
    owner, _, name = part.path.rpartition(".")
    try:
        return hasattr(module.get_submodule(owner), name)
    except AttributeError:
        return False
