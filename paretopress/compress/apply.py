"""Apply a plan to a traced model: remove branches, prune widths, factorise layers, scale its images down."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import fx

from paretopress.compress.factorise import break_even_rank, factorise
from paretopress.compress.prune.branches import remove_branches
from paretopress.compress.prune.channels import KeptChannels, prune_groups
from paretopress.compress.resolution import resize_inputs
from paretopress.core.layer_types import Weighted, kernel_of
from paretopress.core.model_graph import ModelGraph
from paretopress.core.model_inputs import outputs_of, tensors, zeros
from paretopress.core.plan import Plan
from paretopress.errors import CompressError, first_line


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed, not yet recovered module; `notes` are choices of the plan that had no effect, `kept` the channels that are left."""

    module: fx.GraphModule
    notes: tuple[str, ...]
    kept: KeptChannels = field(default_factory=KeptChannels)


def compress_module(
    base: fx.GraphModule, graph: ModelGraph, plan: Plan, ranking: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> Compressed:
    """Return a compressed copy of `base`; the base is not changed.

    Args:
        ranking: channel group -> its channels, the least important first; a group that is not named goes by the norms of its weights.
    Raises: CompressError: the plan names something that the graph does not have, or the result does not run.
    """
    _check_names(graph, plan)
    module = copy.deepcopy(base).eval()
    example = zeros(graph.inputs, 2)
    remove_branches(module, graph.removed_branches(plan.kept))
    groups = {group.name: group for group in graph.channel_groups}
    kept = prune_groups(module, groups, {name: keep for name, keep in plan.kept.items() if keep > 0}, ranking)
    notes = _factorise_layers(module, plan)
    if plan.resolution < 1.0:
        resize_inputs(module, graph.inputs, plan.resolution)
    try:
        with torch.inference_mode():
            shapes = [tuple(output.shape[1:]) for output in outputs_of(module(*tensors(example)))]
    except RuntimeError as error:
        raise CompressError(f"a compressed model must run, but got {first_line(error)}") from error
    wanted = [spec.shape for spec in graph.outputs]
    if shapes != wanted:
        raise CompressError(f"compression must keep the shapes of the outputs, {wanted}, but got {shapes}")
    return Compressed(module, notes, kept)


def _check_names(graph: ModelGraph, plan: Plan) -> None:
    known_groups = {group.name for group in graph.channel_groups} | {branch.group for branch in graph.branches}
    layers = {layer.name for layer in graph.layers}
    bit_groups = {group.name for group in graph.bit_groups}
    for kind, names, known in (("group", plan.kept, known_groups), ("layer", plan.rank, layers), ("bit group", plan.bits, bit_groups)):
        unknown = sorted(set(names) - known)
        if unknown:
            raise CompressError(f"a plan may name what the model has, but got the {kind} {unknown[0]!r}")
    for name, keep in plan.kept.items():
        if keep == 0 and graph.branch_led_by(name) is None:
            raise CompressError(f"0 channels may be kept only of a residual branch with an identity skip, but got 0 at {name}")


def _factorise_layers(module: fx.GraphModule, plan: Plan) -> tuple[str, ...]:
    notes = []
    layers = dict(module.named_modules())
    for name, rank in plan.rank.items():
        layer = layers.get(name)
        if not isinstance(layer, Weighted):
            notes.append(f"rank/{name}: its branch is removed")
            continue
        out_channels, in_channels = layer.weight.shape[:2]
        limit = break_even_rank(out_channels, in_channels, kernel_of(layer))
        if rank > limit:
            notes.append(f"rank/{name}: {rank} is past the break-even rank {limit} of the pruned layer; left dense")
            continue
        module.set_submodule(name, factorise(layer, rank))
    return tuple(notes)
