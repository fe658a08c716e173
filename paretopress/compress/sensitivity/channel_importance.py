"""Rank the channels of each group by importance, under the usual criteria, on the unchanged model.

From the weights, over everything that a channel couples (Fang et al. 2023, "DepGraph", section 3.3): L2, L1, and the batch-norm scale (Liu
et al. 2017, "Learning efficient convolutional networks through network slimming"). From what the first layer behind a group reads on a
few items: Taylor, the square of gradient times activation, summed over the positions of an item (Molchanov et al. 2019, "Importance
estimation for neural network pruning", equation 8, with labels drawn from the model's own prediction); the mean activation (Molchanov
et al. 2017, "Pruning convolutional neural networks for resource efficient inference"); APoZ, the share of activations that are zero (Hu
et al. 2016, "Network trimming").
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from paretopress.compress.prune.channels import AVERAGED, L2_NORMS, dependency_graph, scores_of
from paretopress.compress.prune.group_rules import rule_for
from paretopress.compress.recover.activation_recorder import RecordedCall, differentiable, record_calls
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import ChannelGroup, ModelGraph
from paretopress.core.model_inputs import Inputs, zeros
from paretopress.core.plan import Criterion
from paretopress.tasks.base import Task

_OF_WEIGHTS: dict[Criterion, tp.importance.Importance] = {
    Criterion.L2: L2_NORMS,
    Criterion.L1: tp.importance.GroupMagnitudeImportance(p=1, **AVERAGED),
    Criterion.BN_SCALE: tp.importance.BNScaleImportance(**AVERAGED),
}
Ranking = Mapping[str, tuple[int, ...]]


def rank_channels(base: fx.GraphModule, graph: ModelGraph, inputs: Inputs, criterion: Criterion, *, task: Task, seed: int = 0) -> Ranking:
    """Return group -> its channels, the least important first; the module is not changed.

    Groups that the criterion cannot tell apart (no batch norm, no activation that is ever zero) are not named, nor are heads, hidden units
    and the widths between two Linear layers: they go by the norms of their weights.

    Args:
        inputs: items as the model was trained on.
    """
    groups = [group for group in graph.channel_groups if rule_for(base, group) is None]
    if criterion in _OF_WEIGHTS:
        by_group = _of_weights(base, graph, groups, criterion)
    else:
        by_group = _of_inputs(base, groups, inputs, criterion, task, seed)
    return {name: tuple(scores.argsort(stable=True).tolist()) for name, scores in by_group.items() if scores.max() > scores.min()}


def _of_weights(base: fx.GraphModule, graph: ModelGraph, groups: list[ChannelGroup], criterion: Criterion) -> dict[str, Tensor]:
    module = copy.deepcopy(base)
    dependencies, found = dependency_graph(module, zeros(graph.inputs, 2)), {}
    for group in groups:
        scores = scores_of(dependencies, module.get_submodule(group.layers[0]), _OF_WEIGHTS[criterion])
        if scores is not None:
            found[group.name] = scores
    return found


def _of_inputs(
    base: fx.GraphModule, groups: list[ChannelGroup], inputs: Inputs, criterion: Criterion, task: Task, seed: int
) -> dict[str, Tensor]:
    module = differentiable(base)
    layers = dict(module.named_modules())
    readers = {group.name: _reader(group, layers) for group in groups}
    read = {name: layers[name] for name in readers.values() if name is not None}
    scores = {name: torch.zeros(_inputs_of(layer)) for name, layer in read.items()}
    for calls in record_calls(module, read, inputs, task, seed):
        for name, layer in read.items():
            scores[name] += sum((_SCORES[criterion](call, layer) for call in calls[name]), start=torch.zeros(1))
    return {group: scores[reader] for group, reader in readers.items() if reader is not None}


def _reader(group: ChannelGroup, layers: Mapping[str, nn.Module]) -> str | None:
    """Return a layer that reads the group's channels and no others: not behind a concatenation, nor flattened with their positions."""
    readers = (name for name in group.feeds if isinstance(layers[name], Weighted))
    return next((name for name in readers if _inputs_of(layers[name]) == group.channels), None)


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
