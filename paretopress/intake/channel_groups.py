"""Channel groups: which layers' output channels must be pruned together, and which must not be pruned at all.

torch-pruning's dependency graph proposes the groups. Each is then proven on the model itself: silencing a channel by zero weights
must give the same outputs as removing it. A group that fails the proof is frozen with the reason, so nothing is pruned silently wrong.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from paretopress.compress.pruning import channels_of, dependency_graph, pruning_function
from paretopress.compress.shuffle import ChannelShuffle
from paretopress.graph import ChannelGroup, Frozen, Layer, LayerKind

_TOLERANCE = 1e-3


def find_channel_groups(
    module: fx.GraphModule, layers: tuple[Layer, ...], example: Tensor
) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
    """Return (groups that can be pruned, layers that are left alone with the reason), both in the model's order."""
    proposed, frozen = _propose(module, layers, example)
    if not _proof_fails(module, proposed, example):  # all at once first: one copy and two forwards, where each alone costs as much
        return tuple(proposed), tuple(frozen)
    proven = []
    for group in proposed:
        reason = _proof_fails(module, [group], example)
        if reason:
            frozen.append(Frozen(group.name, reason))
        else:
            proven.append(group)
    return tuple(proven), tuple(frozen)


def _propose(module: fx.GraphModule, layers: tuple[Layer, ...], example: Tensor) -> tuple[list[ChannelGroup], list[Frozen]]:
    by_name = {layer.name: layer for layer in layers}
    names = {id(child): name for name, child in module.named_modules()}
    graph = dependency_graph(module, example)
    found: dict[str, ChannelGroup] = {}
    frozen: dict[str, Frozen] = {}
    outputs = _output_layers(module)
    order = {layer.name: i for i, layer in enumerate(layers)}
    for raw in _raw_groups(graph, module, layers, names, frozen):
        ordered, fed = (
            tuple(sorted(_touched(raw, handler, names) & by_name.keys(), key=order.__getitem__))
            for handler in ("prune_out_channels", "prune_in_channels")
        )
        if not ordered:
            continue
        group = ChannelGroup(ordered[0], by_name[ordered[0]].out_channels, ordered, fed)
        shuffled = any(isinstance(dependency.target.module, ChannelShuffle) for dependency, _ in raw)
        reason = "its channels are shuffled with others" if shuffled else _refusal(group, by_name, outputs)
        if reason:
            frozen[group.name] = Frozen(group.name, reason)
        else:
            found[group.name] = group
    return sorted(found.values(), key=lambda g: order[g.name]), sorted(frozen.values(), key=lambda f: order[f.name])


def _raw_groups(
    graph: tp.DependencyGraph, module: fx.GraphModule, layers: tuple[Layer, ...], names: dict[int, str], frozen: dict[str, Frozen]
) -> Iterator[Iterable[tuple[Any, list[int]]]]:
    """Yield the raw group that each layer leads, unless an earlier one holds it; freeze a layer that torch-pruning cannot follow."""
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            continue
        root = module.get_submodule(layer.name)
        try:
            raw = list(graph.get_pruning_group(root, pruning_function(root), list(range(layer.out_channels))))
        except Exception as error:  # torch-pruning raises whatever its handlers meet
            frozen[layer.name] = Frozen(layer.name, f"its channels cannot be followed through the model: {_one_line(error)}")
            continue
        seen |= _touched(raw, "prune_out_channels", names)
        yield raw


def _touched(raw: Iterable[tuple[Any, list[int]]], handler: str, names: dict[int, str]) -> set[str]:
    """Return the Conv2d and Linear layers that a raw group of torch-pruning prunes by a handler of that name."""
    return {
        names.get(id(dependency.target.module), "")
        for dependency, _ in raw
        if dependency.handler.__name__ == handler and isinstance(dependency.target.module, nn.Conv2d | nn.Linear)
    }


def _refusal(group: ChannelGroup, layers: dict[str, Layer], outputs: set[str]) -> str:
    if outputs & set(group.layers):
        return "its output channels are the model's outputs"
    grouped = [name for name in (*group.layers, *group.feeds) if layers[name].kind is LayerKind.GROUPED]
    if grouped:
        return f"{grouped[0]} is a grouped convolution: its channels cannot be removed one by one"
    widths = {layers[name].out_channels for name in group.layers}
    if len(widths) > 1:
        return f"its layers have different widths {sorted(widths)}"
    return ""


def _output_layers(module: fx.GraphModule) -> set[str]:
    """Return the layers from which the output is reached without passing another layer."""
    modules = dict(module.named_modules())
    output = next(node for node in module.graph.nodes if node.op == "output")
    waiting, seen, found = list(output.all_input_nodes), set[fx.Node](), set[str]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d | nn.Linear):
            found.add(str(node.target))
        else:
            waiting.extend(node.all_input_nodes)
    return found


def _proof_fails(module: fx.GraphModule, groups: Iterable[ChannelGroup], example: Tensor) -> str:
    """Return "" if pruning half of each group equals silencing the same channels, else what went wrong."""
    halves = {group.name: (group, _any_half(group.channels)) for group in groups if group.channels > 1}
    silenced, pruned = copy.deepcopy(module), copy.deepcopy(module)
    try:
        dependencies = dependency_graph(pruned, example)
        layers = dict(pruned.named_modules())
        names = {id(child): path for path, child in layers.items()}

        def coupled(name: str) -> Any:
            return dependencies.get_pruning_group(layers[name], pruning_function(layers[name]), halves[name][1])

        for name in halves:  # before anything is pruned: the positions behind a concatenation shift
            _silence(silenced, coupled(name), names)
        for name in halves:
            coupled(name).prune()
        with torch.inference_mode():
            expected, actual = silenced(example), pruned(example)
    except Exception as error:  # torch-pruning raises whatever its handlers meet
        return f"pruning it breaks the model: {_one_line(error)}"
    if expected.shape != actual.shape:
        return f"pruning it changes the output shape from {tuple(expected.shape)} to {tuple(actual.shape)}"
    difference = float((expected - actual).abs().max())
    scale = float(expected.abs().max()) + 1e-6
    if not difference <= _TOLERANCE * scale:
        return f"removing channels is not the same as silencing them (outputs differ by {difference:.2g} of {scale:.2g})"
    wrong = [name for group, drop in halves.values() for name in group.layers if channels_of(layers[name]) != group.channels - len(drop)]
    return f"{wrong[0]} would not be pruned with it" if wrong else ""


def _one_line(error: Exception) -> str:
    """Return an error's class and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _any_half(channels: int) -> list[int]:
    """Return half of the channels, always the same, without a pattern: one could suit a layer that others do not."""
    return sorted(random.Random(channels).sample(range(channels), channels // 2))


def _silence(module: nn.Module, coupled: Iterable[tuple[object, list[int]]], names: dict[int, str]) -> None:
    """Set to zero, in another copy of the model, everything that makes the coupled output channels non-zero."""
    layers = dict(module.named_modules())
    for dependency, indices in coupled:
        target = dependency.target.module  # type: ignore[attr-defined]  # torch-pruning is untyped
        if dependency.handler.__name__ != "prune_out_channels" or id(target) not in names:  # type: ignore[attr-defined]
            continue
        layer = layers[names[id(target)]]
        for parameter in layer.parameters(recurse=False):
            with torch.no_grad():
                parameter[indices] = 0.0
