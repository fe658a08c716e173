"""Rank the channels of each group by importance, under the usual criteria, on the unchanged model.

From the weights, over everything that a channel couples (Fang et al. 2023, "DepGraph", section 3.3): L2, L1, and the batch-norm scale (Liu
et al. 2017, "Learning efficient convolutional networks through network slimming"). From what the first layer behind a group reads on a
few items: Taylor, the square of gradient times activation, summed over the positions of an item (Molchanov et al. 2019, "Importance
estimation for neural network pruning", equation 8, with labels drawn from the model's own prediction); the mean activation (Molchanov
et al. 2017, "Pruning convolutional neural networks for resource efficient inference"); APoZ, the share of activations that are zero (Hu
et al. 2016, "Network trimming").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn

from paretopress.compress.prune.importance import batch_norm_scales, magnitudes
from paretopress.compress.recover.activation_recorder import RecordedCall, differentiable, record_calls
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import ChannelGroup, ModelGraph, Part, Role
from paretopress.core.model_inputs import Inputs
from paretopress.core.plan import Criterion
from paretopress.tasks.base import Task

_OF_WEIGHTS: dict[Criterion, Callable[[nn.Module, ChannelGroup], Tensor | None]] = {
    Criterion.L2: magnitudes,
    Criterion.L1: partial(magnitudes, power=1),
    Criterion.BN_SCALE: batch_norm_scales,
}
Ranking = Mapping[str, tuple[int, ...]]


def rank_channels(base: fx.GraphModule, graph: ModelGraph, inputs: Inputs, criterion: Criterion, *, task: Task, seed: int = 0) -> Ranking:
    """Return group -> its blocks, the least important first; the module is not changed.

    Groups that the criterion cannot tell apart (no batch norm, no activation that is ever zero) are not named, nor are hidden units: they
    go by the norms of their weights.

    Args:
        inputs: items as the model was trained on.
    """
    groups = [group for group in graph.channel_groups if group.parts]
    if criterion in _OF_WEIGHTS:
        scored = {group.name: _OF_WEIGHTS[criterion](base, group) for group in groups}
        by_group = {name: scores for name, scores in scored.items() if scores is not None}
    else:
        by_group = _of_inputs(base, groups, inputs, criterion, task, seed)
    return {name: tuple(scores.argsort(stable=True).tolist()) for name, scores in by_group.items() if scores.max() > scores.min()}


def _of_inputs(
    base: fx.GraphModule, groups: list[ChannelGroup], inputs: Inputs, criterion: Criterion, task: Task, seed: int
) -> dict[str, Tensor]:
    module = differentiable(base)
    layers = dict(module.named_modules())
    groups_by_name = {group.name: group for group in groups}
    readers = {group.name: reader for group in groups if (reader := _reader(group, layers)) is not None}
    read = {reader.path: layers[reader.path] for reader in readers.values()}
    scores = {name: torch.zeros(_inputs_of(layer)) for name, layer in read.items()}
    for calls in record_calls(module, read, inputs, task, seed):
        for name, layer in read.items():
            scores[name] += sum((_SCORES[criterion](call, layer) for call in calls[name]), start=torch.zeros(1))
    return {name: _by_block(scores[reader.path], groups_by_name[name], reader) for name, reader in readers.items()}


def _by_block(scores: Tensor, group: ChannelGroup, reader: Part) -> Tensor:
    """Return (blocks,) the sum of the scores (inputs,) of what a layer reads of each block."""
    return scores[torch.tensor(reader.index)].reshape(group.blocks, -1).sum(dim=1)


def _reader(group: ChannelGroup, layers: Mapping[str, nn.Module]) -> Part | None:
    """Return the inputs of the first layer that reads the group's channels."""
    reads = {part.path: part for part in group.parts if part.role is Role.INPUTS and isinstance(layers.get(part.path), Weighted)}
    return next((reads[name] for name in group.feeds if name in reads), None)


def _inputs_of(layer: nn.Module) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]  # nn.Module attributes are untyped


def _by_channel(values: Tensor, layer: nn.Module) -> Tensor:
    """Return what a layer reads as (N, channels, positions)."""
    first = values.movedim(-1, 1) if isinstance(layer, nn.Linear) else values
    return first.reshape(*first.shape[:2], -1)


def _taylor(call: RecordedCall, layer: nn.Module) -> Tensor:
    return _by_channel(call.input_gradient() * call.input.detach(), layer).sum(2).square().sum(0)


def _mean_activation(call: RecordedCall, layer: nn.Module) -> Tensor:
    return _by_channel(call.input.detach(), layer).abs().mean(2).sum(0)


def _not_zero(call: RecordedCall, layer: nn.Module) -> Tensor:
    return (_by_channel(call.input.detach(), layer) != 0.0).float().mean(2).sum(0)


_SCORES: dict[Criterion, Callable[[RecordedCall, nn.Module], Tensor]] = {
    Criterion.TAYLOR: _taylor,
    Criterion.MEAN_ACTIVATION: _mean_activation,
    Criterion.APOZ: _not_zero,
}
