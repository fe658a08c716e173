"""Channel groups: which layers' output channels must be pruned together, and which must not be pruned at all.

torch-pruning's dependency graph proposes the groups. Each is then proven on the model itself: silencing a channel by zero weights
must give the same outputs as removing it. A group that fails the proof is frozen with the reason, so nothing is pruned silently wrong.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from paretopress.compress.prune.attention_heads import channels_of_heads
from paretopress.compress.prune.channel_shuffle import ChannelShuffle
from paretopress.compress.prune.channels import channels_of, dependency_graph, pruning_function
from paretopress.compress.prune.group_rules import rule_for
from paretopress.compress.prune.mlp_widths import find_mlp_widths
from paretopress.compress.prune.recurrent_units import Recurrent
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import ChannelGroup, Frozen, Layer, LayerKind
from paretopress.core.model_inputs import Inputs, outputs_of, tensors
from paretopress.errors import typed_line
from paretopress.intake.groups.head_groups import find_head_groups
from paretopress.intake.groups.recurrent_groups import find_recurrent_groups

_TOLERANCE = 1e-3
_NORMS = frozenset({F.layer_norm, F.group_norm, torch.layer_norm, torch.group_norm})


def find_channel_groups(
    module: fx.GraphModule, layers: tuple[Layer, ...], example: Inputs
) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
    """Return (groups that can be pruned, layers that are left alone with the reason), both in the model's order."""
    order = {layer.name: place for place, layer in enumerate(layers)}
    known = [*find_head_groups(module), *find_recurrent_groups(module), *find_mlp_widths(module)]
    found, frozen = _propose(module, layers, example, {name for group in known for name in group.layers})
    proposed = sorted([*known, *found], key=lambda group: order[group.name])
    proven, refused = _proven(module, proposed, example)
    return tuple(proven), (*frozen, *refused)


def _proven(module: fx.GraphModule, groups: list[ChannelGroup], example: Inputs) -> tuple[list[ChannelGroup], list[Frozen]]:
    """Return the groups that pass the proof, and the others with the reason; all at once, or half by half where that fails."""
    reason = _proof_fails(module, groups, example)
    if not reason:
        return groups, []
    if len(groups) == 1:
        return [], [Frozen(groups[0].name, reason)]
    (first, first_refused), (second, second_refused) = (
        _proven(module, half, example) for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :])
    )
    return [*first, *second], [*first_refused, *second_refused]


def _propose(
    module: fx.GraphModule, layers: tuple[Layer, ...], example: Inputs, known: Collection[str]
) -> tuple[list[ChannelGroup], list[Frozen]]:
    """Return the groups that torch-pruning finds, but for `known` layers, and the layers that can be in none."""
    by_name = {layer.name: layer for layer in layers}
    names = {id(child): name for name, child in module.named_modules()}
    order = {layer.name: i for i, layer in enumerate(layers)}
    outputs, together = _output_layers(module), _normalised_together(module)
    frozen: dict[str, Frozen] = {}
    left = []
    for layer in layers:  # what is known at once: following channels through a whole transformer takes minutes
        if layer.name in known or layer.kind is LayerKind.RECURRENT:
            continue
        if layer.name in outputs:
            frozen[layer.name] = Frozen(layer.name, "its output channels are the model's outputs")
        elif layer.name in together:
            frozen[layer.name] = Frozen(layer.name, f"its channels are normalised together by {together[layer.name]}")
        else:
            left.append(layer)
    found: dict[str, ChannelGroup] = {}
    for raw in _raw_groups(module, left, example, names, frozen):
        ordered, fed = (
            tuple(sorted(_layers_pruned_by(raw, handler, names) & by_name.keys(), key=order.__getitem__))
            for handler in ("prune_out_channels", "prune_in_channels")
        )
        if not ordered:
            continue
        group = ChannelGroup(ordered[0], by_name[ordered[0]].out_channels, ordered, fed)
        shuffled = any(isinstance(dependency.target.module, ChannelShuffle) for dependency, _ in raw)
        norm = next((together[name] for name in ordered if name in together), None)
        if norm is not None:
            reason = f"its channels are normalised together by {norm}"
        else:
            reason = "its channels are shuffled with others" if shuffled else _refusal(group, by_name, outputs)
        if reason:
            frozen[group.name] = Frozen(group.name, reason)
        else:
            found[group.name] = group
    return sorted(found.values(), key=lambda g: order[g.name]), sorted(frozen.values(), key=lambda f: order[f.name])


def _raw_groups(
    module: fx.GraphModule, layers: Sequence[Layer], example: Inputs, names: dict[int, str], frozen: dict[str, Frozen]
) -> Iterator[Iterable[tuple[Any, list[int]]]]:
    """Yield the raw group that each layer leads, unless an earlier one holds it; freeze a layer that torch-pruning cannot follow."""
    if not layers:
        return
    seen: set[str] = set()
    try:
        graph = dependency_graph(module, example)
    except Exception as error:  # torch-pruning raises whatever its handlers meet
        reason = f"its channels cannot be followed through the model: {typed_line(error)}"
        frozen |= {layer.name: Frozen(layer.name, reason) for layer in layers}
        return
    for layer in layers:
        if layer.name in seen:
            continue
        root = module.get_submodule(layer.name)
        try:
            raw = list(graph.get_pruning_group(root, pruning_function(root), list(range(layer.out_channels))))
        except Exception as error:  # torch-pruning raises whatever its handlers meet
            frozen[layer.name] = Frozen(layer.name, f"its channels cannot be followed through the model: {typed_line(error)}")
            continue
        seen |= _layers_pruned_by(raw, "prune_out_channels", names)
        yield raw


def _normalised_together(module: fx.GraphModule) -> dict[str, str]:
    """Return layer -> the first layer or group norm that its outputs reach without passing another layer."""
    modules = dict(module.named_modules())

    def called(node: fx.Node) -> nn.Module | None:
        return modules[str(node.target)] if node.op == "call_module" else None

    found: dict[str, str] = {}
    for node in module.graph.nodes:
        if not isinstance(called(node), Weighted):
            continue
        waiting, seen = list(node.users), set[fx.Node]()
        while waiting and str(node.target) not in found:
            user = waiting.pop(0)
            if user in seen or isinstance(called(user), Weighted):
                continue
            seen.add(user)
            if isinstance(called(user), Recurrent):
                continue
            if isinstance(called(user), nn.LayerNorm | nn.GroupNorm):
                found[str(node.target)] = str(user.target)
            elif user.op == "call_function" and user.target in _NORMS:
                found[str(node.target)] = user.name
            waiting.extend(user.users)
    return found


def _layers_pruned_by(raw: Iterable[tuple[Any, list[int]]], handler: str, names: dict[int, str]) -> set[str]:
    """Return the convolutions and Linear layers that a raw group of torch-pruning prunes by a handler of that name."""
    return {
        names.get(id(dependency.target.module), "")
        for dependency, _ in raw
        if dependency.handler.__name__ == handler and isinstance(dependency.target.module, Weighted)
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
        if node.op == "call_module" and isinstance(modules[str(node.target)], Weighted):
            found.add(str(node.target))
        else:
            waiting.extend(node.all_input_nodes)
    return found


def _proof_fails(module: fx.GraphModule, groups: Iterable[ChannelGroup], example: Inputs) -> str:
    """Return "" if pruning half of each group equals silencing the same channels, else what went wrong."""
    halves = [(group, _any_half(group)) for group in groups if group.channels > group.unit]
    silenced, pruned = copy.deepcopy(module), copy.deepcopy(module)
    try:
        _halved_copies(silenced, pruned, halves, example)
        with torch.inference_mode():
            wanted, found = (outputs_of(part(*tensors(example))) for part in (silenced, pruned))
    except Exception as error:  # torch-pruning raises whatever its handlers meet
        return f"pruning it breaks the model: {typed_line(error)}"
    for expected, actual in zip(wanted, found, strict=True):
        if expected.shape != actual.shape:
            return f"pruning it changes the output shape from {tuple(expected.shape)} to {tuple(actual.shape)}"
        difference = float((expected - actual).abs().max())
        scale = float(expected.abs().max()) + 1e-6
        if not difference <= _TOLERANCE * scale:
            return f"removing channels is not the same as silencing them (outputs differ by {difference:.2g} of {scale:.2g})"
    left = {name: channels_of(pruned.get_submodule(name)) for group, _ in halves for name in group.layers}
    wrong = [name for group, dropped in halves for name in group.layers if left[name] != group.channels - len(dropped)]
    return f"{wrong[0]} would not be pruned with it" if wrong else ""


def _halved_copies(silenced: fx.GraphModule, pruned: fx.GraphModule, halves: list[tuple[ChannelGroup, list[int]]], example: Inputs) -> None:
    """Silence channels in one copy of a model and remove them in the other."""
    layers = dict(pruned.named_modules())
    names = {id(child): path for path, child in layers.items()}
    plain = [(group, dropped) for group, dropped in halves if rule_for(pruned, group) is None]
    dependencies = dependency_graph(pruned, example) if plain else None

    def coupled(group: ChannelGroup, dropped: list[int]) -> Any:  # torch-pruning's group
        assert dependencies is not None
        return dependencies.get_pruning_group(layers[group.name], pruning_function(layers[group.name]), dropped)

    for group, dropped in plain:  # before anything is pruned: the positions behind a concatenation shift
        _silence(silenced, coupled(group, dropped), names)
    for group, dropped in plain:
        coupled(group, dropped).prune()
    for group, dropped in halves:
        rule = rule_for(pruned, group)
        if rule is not None:
            rule.silence(silenced, group, dropped)
            rule.prune(pruned, group, dropped)


def _any_half(group: ChannelGroup) -> list[int]:
    """Return half of the channels, always the same, without a pattern: one could suit a layer that others do not."""
    blocks = group.channels // group.unit
    return channels_of_heads(group, random.Random(blocks).sample(range(blocks), blocks // 2))


def _silence(module: nn.Module, coupled: Iterable[tuple[object, list[int]]], names: dict[int, str]) -> None:
    """Set to zero, in another copy of the model, everything that makes the coupled output channels non-zero."""
    layers = dict(module.named_modules())
    for dependency, indices in coupled:
        target = dependency.target.module  # type: ignore[attr-defined]  # torch-pruning is untyped
        if dependency.handler.__name__ != "prune_out_channels" or id(target) not in names:  # type: ignore[attr-defined]
            continue
        for parameter in layers[names[id(target)]].parameters(recurse=False):
            with torch.no_grad():
                parameter[indices] = 0.0
