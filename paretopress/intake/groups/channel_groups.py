"""Channel groups: which layers' output channels must be pruned together, and which must not be pruned at all.

The flow of channels through the model proposes the groups. Each is then proven on the model itself: silencing a block of channels must give
the same outputs as removing it. A group that fails the proof is frozen with the reason, so nothing is pruned silently wrong.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from paretopress.compress.prune.channels import channels_of, cut_blocks
from paretopress.compress.prune.recurrent_units import prune_units, silence_units
from paretopress.compress.prune.surgery import silence_entries
from paretopress.core.model_graph import ChannelGroup, Frozen, Layer, LayerKind, Part, Role
from paretopress.core.model_inputs import Inputs, outputs_of, tensors
from paretopress.errors import typed_line
from paretopress.intake.flow.channel_flow import IN, OUT, ChannelFlow, Slot
from paretopress.intake.flow.channel_means import sum_up_means
from paretopress.intake.flow.free_reshapes import free_widths
from paretopress.intake.flow.labels import NONE, along
from paretopress.intake.groups.recurrent_groups import find_recurrent_groups

_TOLERANCE = 1e-3
_ROLES = {OUT: Role.OUTPUTS, IN: Role.INPUTS}
_TOGETHER = "its channels can only be removed all together"


def find_channel_groups(
    module: fx.GraphModule, layers: tuple[Layer, ...], example: Inputs
) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
    """Return (groups that can be pruned, layers that are left alone with the reason), both in the model's order.

    Reshapes that name a width that can be pruned are freed of it, and means over one are written as sums, in place.
    """
    order = {layer.name: place for place, layer in enumerate(layers)}
    recurrent = find_recurrent_groups(module)
    flow = ChannelFlow(module, example)
    found, frozen = _propose(flow, layers)
    prunable = _prunable(flow, found)
    _free(module, flow, prunable, example)
    sum_up_means(module, flow, prunable)
    proposed = sorted([*recurrent, *found], key=lambda group: order[group.name])
    proven, refused = _proven(module, proposed, example)
    return tuple(proven), tuple(sorted([*frozen, *refused], key=lambda item: order[item.name]))


def _free(module: fx.GraphModule, flow: ChannelFlow, prunable: set[int], example: Inputs) -> None:
    """Free reshapes of prunable widths, unless the model computes something else then."""
    before, wanted = copy.deepcopy(module.graph), outputs_of(_run(module, example))
    free_widths(module, flow, prunable)
    try:
        same = all(map(torch.equal, wanted, outputs_of(_run(module, example))))
    except RuntimeError:  # a reshape that does not fit
        same = False
    if not same:
        module.graph = before


def _run(module: fx.GraphModule, example: Inputs) -> Any:
    with torch.inference_mode():
        return module(*tensors(example))


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


@dataclass(frozen=True, slots=True)
class _Entries:
    """The entries of a slot, by class."""

    slot: Slot
    axis: int
    by_class: Mapping[int, list[int]]


def _propose(flow: ChannelFlow, layers: tuple[Layer, ...]) -> tuple[list[ChannelGroup], list[Frozen]]:
    """Return the groups of classes that are alike, and the layers that can be in none."""
    by_name = {layer.name: layer for layer in layers}
    order = {layer.name: place for place, layer in enumerate(layers)}
    slots = [entries for slot in flow.slots.values() if (entries := _entries(flow, slot)) is not None]
    reasons = flow.labels.reasons()
    kinds: dict[tuple[tuple[int, int], ...], list[int]] = {}
    members: dict[int, list[tuple[int, int]]] = {}
    for place, entries in enumerate(slots):
        for root, index in entries.by_class.items():
            members.setdefault(root, []).append((place, len(index)))
    for root, parts in members.items():
        leads = any(slots[place].slot.role == OUT and slots[place].slot.path in by_name for place, _ in parts)
        if leads and root not in reasons and root != NONE:
            kinds.setdefault(tuple(parts), []).append(root)
    found: dict[str, ChannelGroup] = {}
    for kind, roots in kinds.items():
        group = _group([slots[place] for place, _ in kind], roots, order)
        if group is not None and group.blocks > 1:
            found[group.name] = group
    named = {name for group in found.values() for name in group.layers}
    frozen = [
        Frozen(layer.name, _reason(flow, reasons, layer.name))
        for layer in layers
        if layer.kind is not LayerKind.RECURRENT and layer.name not in named
    ]
    return [group for group in found.values() if _is_whole(group, by_name)], [
        *frozen,
        *(Frozen(group.name, "its channels belong to several groups") for group in found.values() if not _is_whole(group, by_name)),
    ]


def _is_whole(group: ChannelGroup, layers: Mapping[str, Layer]) -> bool:
    return group.channels == layers[group.name].out_channels


def _reason(flow: ChannelFlow, reasons: Mapping[int, str], name: str) -> str:
    slot = flow.slots.get((name, OUT))
    if slot is None:
        return "its channels could not be followed"
    return next((reasons[root] for root in flow.labels.roots(slot.labels).tolist() if root in reasons), _TOGETHER)


def _entries(flow: ChannelFlow, slot: Slot) -> _Entries | None:
    """Return the entries of a slot by class; of a parameter along the axis by which it can be cut, None where there is none."""
    roots, axis = flow.labels.roots(slot.labels), 0
    if slot.axis < 0:
        axis_found = _axis_of(flow, slot, roots)
        if axis_found is None:
            return None
        axis, roots = axis_found
    by_class: dict[int, list[int]] = {}
    for entry, root in enumerate(roots.tolist()):
        by_class.setdefault(root, []).append(entry)
    return _Entries(slot, axis, by_class)


def _axis_of(flow: ChannelFlow, slot: Slot, roots: Tensor) -> tuple[int, Tensor] | None:
    """Return the axis of a parameter on which alone its classes differ, and the classes along it."""
    shape = flow.shape_of_parameter(slot.path)
    shaped = roots.reshape(shape)
    for axis, size in enumerate(shape):
        classes = along(shaped, axis) if size > 1 else None
        if classes is not None and len(set(classes.tolist())) > 1:
            return axis, classes
    return None


def _group(slots: Sequence[_Entries], roots: list[int], order: Mapping[str, int]) -> ChannelGroup | None:
    outputs = sorted((each for each in slots if each.slot.role == OUT and each.slot.path in order), key=lambda each: order[each.slot.path])
    lead = outputs[0]
    ordered = sorted(roots, key=lambda root: lead.by_class[root][0])
    parts = tuple(
        Part(each.slot.path, _ROLES.get(each.slot.role, Role.VALUES), tuple(i for root in ordered for i in each.by_class[root]), each.axis)
        for each in slots
    )
    feeds = sorted((each.slot.path for each in slots if each.slot.role == IN and each.slot.path in order), key=order.__getitem__)
    unit = len(lead.by_class[ordered[0]])
    return ChannelGroup(lead.slot.path, unit * len(ordered), tuple(each.slot.path for each in outputs), tuple(feeds), unit, parts)


def _prunable(flow: ChannelFlow, groups: Iterable[ChannelGroup]) -> set[int]:
    """Return the classes that groups can lose."""
    found: set[int] = set()
    for group in groups:
        slot = flow.slots[group.name, OUT]
        found |= set(flow.labels.roots(slot.labels).tolist())
    return found - {NONE}


def _proof_fails(module: fx.GraphModule, groups: Iterable[ChannelGroup], example: Inputs) -> str:
    """Return "" if pruning half of each group equals silencing the same channels, else what went wrong."""
    halves = {group.name: _any_half(group) for group in groups if group.blocks > 1}
    by_name = {group.name: group for group in groups}
    silenced, pruned = copy.deepcopy(module), copy.deepcopy(module)
    try:
        _halved_copies(silenced, pruned, by_name, halves)
        with torch.inference_mode():
            wanted, found = (outputs_of(part(*tensors(example))) for part in (silenced, pruned))
    except Exception as error:  # whatever the model's operators meet
        return f"pruning it breaks the model: {typed_line(error)}"
    for expected, actual in zip(wanted, found, strict=True):
        if expected.shape != actual.shape:
            return f"pruning it changes the output shape from {tuple(expected.shape)} to {tuple(actual.shape)}"
        difference = float((expected - actual).abs().max()) if expected.numel() else 0.0
        scale = float(expected.abs().max()) + 1e-6
        if not difference <= _TOLERANCE * scale:
            return f"removing channels is not the same as silencing them (outputs differ by {difference:.2g} of {scale:.2g})"
    for name, blocks in halves.items():
        left = channels_of(pruned.get_submodule(name))
        if left != by_name[name].channels - len(blocks) * by_name[name].unit:
            return f"{name} would not be pruned with it"
    return ""


def _halved_copies(
    silenced: fx.GraphModule, pruned: fx.GraphModule, groups: Mapping[str, ChannelGroup], halves: Mapping[str, Sequence[int]]
) -> None:
    """Silence blocks in one copy of a model and remove them in the other."""
    cut = {name: blocks for name, blocks in halves.items() if groups[name].parts}
    gone: dict[tuple[str, Role, int], set[int]] = {}
    for name, blocks in cut.items():
        for part in groups[name].parts:
            gone.setdefault((part.path, part.role, part.axis), set()).update(part.of_blocks(blocks, groups[name].blocks))
    for (path, role, axis), entries in gone.items():
        silence_entries(silenced, path, role, sorted(entries), axis)
    cut_blocks(pruned, groups, cut)
    for name in halves.keys() - cut.keys():
        silence_units(silenced, groups[name], halves[name])
        prune_units(pruned, groups[name], halves[name])


def _any_half(group: ChannelGroup) -> list[int]:
    """Return half of the blocks, always the same, without a pattern: one could suit a layer that others do not."""
    return sorted(random.Random(group.blocks).sample(range(group.blocks), group.blocks // 2))
