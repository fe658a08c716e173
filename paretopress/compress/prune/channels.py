"""Prune channel groups through torch-pruning's dependency graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch_pruning as tp
from torch import Tensor, nn

from paretopress.compress.prune.channel_shuffle import ChannelShuffle, ShuffleBarrier
from paretopress.compress.prune.group_rules import rule_for
from paretopress.compress.prune.recurrent_units import Recurrent
from paretopress.core.layer_types import Conv
from paretopress.core.model_graph import ChannelGroup
from paretopress.core.model_inputs import Inputs, tensors
from paretopress.errors import CompressError

AVERAGED = {"group_reduction": "mean", "normalizer": "mean"}  # over what a channel couples, and scaled to a mean of 1 in each group
L2_NORMS = tp.importance.GroupMagnitudeImportance(p=2, **AVERAGED)


@dataclass(frozen=True, slots=True)
class KeptChannels:
    """Module path -> the original's output or input channels that are left, in rising order; a module that lost none is not named."""

    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def dependency_graph(module: nn.Module, example: Inputs) -> tp.DependencyGraph:
    """Return torch-pruning's dependency graph of a module; `example` is a batch of inputs, float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parameters that it leaves alone; intake lists those itself
        return tp.DependencyGraph().build_dependency(
            module, example_inputs=tensors(example), customized_pruners={ChannelShuffle: ShuffleBarrier()}
        )


def pruning_function(layer: nn.Module) -> object:
    """Return the function that prunes the output channels of a convolution or Linear."""
    if isinstance(layer, nn.Linear):
        return tp.prune_linear_out_channels
    if isinstance(layer, Conv) and layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
        return tp.prune_depthwise_conv_out_channels
    if isinstance(layer, Conv):
        return tp.prune_conv_out_channels
    raise CompressError(f"only convolutions and Linear can be pruned, but got {type(layer).__name__}")


def channels_of(layer: nn.Module) -> int:
    """Return the number of output channels of a convolution or Linear, or of hidden units."""
    if isinstance(layer, Recurrent):
        return layer.hidden_size
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]  # nn.Module attributes are untyped


def prune_groups(
    module: nn.Module,
    groups: Mapping[str, ChannelGroup],
    kept: Mapping[str, int],
    example: Inputs,
    ranking: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> KeptChannels:
    """Prune channel groups in place, the least important channels first, and return what is left.

    Importance: mean L2 norm over everything that a channel couples, normalised per group (Fang et al. 2023, "DepGraph", section 3.3).

    Args:
        groups: name -> group; a group of which no layer is left in the module is passed over.
        kept: group name -> output channels that remain, at least 1.
        example: a batch of inputs, float32, to trace the dependencies.
        ranking: group name -> its channels, the least important first, in place of that importance; not for heads and hidden units.
    """
    wanted = {name: keep for name, keep in kept.items() if keep < groups[name].channels}
    if not wanted:
        return KeptChannels()
    layers = dict(module.named_modules())
    present = {name: keep for name, keep in wanted.items() if any(layer in layers for layer in groups[name].layers)}
    rules = {name: rule for name in present if (rule := rule_for(module, groups[name])) is not None}
    plain = {name: keep for name, keep in present.items() if name not in rules}
    outputs, inputs = _prune_plain(module, groups, plain, example, ranking) if plain else ({}, {})
    for name, rule in rules.items():
        group = groups[name]
        dropped = rule.least_important(module, group, present[name])
        left = _without(tuple(range(group.channels)), dropped)
        outputs |= dict.fromkeys(group.layers, left)
        inputs |= dict.fromkeys(group.feeds, tuple(rule.columns(module, group, left)))
        rule.prune(module, group, dropped)
    return KeptChannels(outputs, inputs)


def _prune_plain(
    module: nn.Module,
    groups: Mapping[str, ChannelGroup],
    kept: Mapping[str, int],
    example: Inputs,
    ranking: Mapping[str, Sequence[int]],
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Prune what torch-pruning can; return module path -> output and input channels that are left."""
    layers = dict(module.named_modules())
    graph = dependency_graph(module, example)
    names = {id(layer): name for name, layer in layers.items()}
    outputs: dict[str, tuple[int, ...]] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    for name, keep in kept.items():
        root = next(layers[layer] for layer in groups[name].layers if layer in layers)
        ranked = ranking.get(name)
        dropped = least_important(graph, root, name, keep) if ranked is None else sorted(ranked[: len(ranked) - keep])
        coupled = graph.get_pruning_group(root, pruning_function(root), dropped)
        for item, indices in coupled:
            layer = item.target.module
            if id(layer) not in names:  # an operation, not a module
                continue
            takes = item.handler.__name__ == "prune_in_channels"
            side, count = (inputs, graph.get_in_channels(layer)) if takes else (outputs, graph.get_out_channels(layer))
            side[names[id(layer)]] = _without(side.get(names[id(layer)], tuple(range(count))), indices)
        coupled.prune()
    return outputs, inputs


def _without(channels: tuple[int, ...], positions: Sequence[int]) -> tuple[int, ...]:
    gone = set(positions)
    return tuple(channel for position, channel in enumerate(channels) if position not in gone)


def scores_of(graph: tp.DependencyGraph, root: nn.Module, importance: tp.importance.Importance) -> Tensor | None:
    """Return the importance (channels,) of the output channels of a group's first layer, or None where there is none for every channel."""
    channels = channels_of(root)
    scores: Tensor | None = importance(graph.get_pruning_group(root, pruning_function(root), list(range(channels))))
    return scores if scores is not None and len(scores) == channels else None


def least_important(graph: tp.DependencyGraph, root: nn.Module, name: str, keep: int) -> list[int]:
    """Return the output channels of `root`, the first layer of the group `name`, that go when `keep` remain, in rising order."""
    scores = scores_of(graph, root, L2_NORMS)
    if scores is None:
        raise CompressError(f"every channel must have an importance, but torch-pruning gave none at {name}")
    dropped: list[int] = torch.argsort(scores, stable=True)[: len(scores) - keep].sort().values.tolist()
    return dropped


def dropped_inputs(module: nn.Module, group: ChannelGroup, keeps: Sequence[int], example: Inputs) -> dict[int, dict[str, list[int]]]:
    """Return kept channels -> layer -> input channels that the layer loses when so many of the group remain; prunes nothing."""
    rule = rule_for(module, group)
    if rule is not None:
        readers = [name for name in group.feeds if isinstance(module.get_submodule(name), nn.Linear)]
        return {keep: dict.fromkeys(readers, rule.columns(module, group, rule.least_important(module, group, keep))) for keep in keeps}
    root = module.get_submodule(group.layers[0])
    graph = dependency_graph(module, example)
    names = {id(child): name for name, child in module.named_modules()}
    lost: dict[int, dict[str, list[int]]] = {}
    for keep in keeps:
        coupled = graph.get_pruning_group(root, pruning_function(root), least_important(graph, root, group.name, keep))
        lost[keep] = {names[id(item.target.module)]: indices for item, indices in coupled if item.handler.__name__ == "prune_in_channels"}
    return {keep: {name: indices for name, indices in by_layer.items() if name in group.feeds} for keep, by_layer in lost.items()}
