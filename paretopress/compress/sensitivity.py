"""Which residual branches a model misses least, found before the first trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from paretopress.compress.apply import compress_module
from paretopress.graph import ModelGraph
from paretopress.inputs import Inputs, outputs_of, tensors
from paretopress.plan import Plan
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

_TOP_1 = Classification()
# 256 small items, fewer large ones, so that a removal is judged in about a second
_ITEMS, _VALUES = (16, 256), 2_000_000


@dataclass(frozen=True, slots=True)
class BranchRanking:
    """The groups that lead a residual branch: in the order in which to remove them, and with the loss of each removed alone."""

    order: tuple[str, ...]
    loss_alone: Mapping[str, float]


def judged_items(graph: ModelGraph) -> int:
    """Return on how many items a model's parts are judged before the first trial."""
    fewest, most = _ITEMS
    return min(max(_VALUES // sum(math.prod(spec.shape) for spec in graph.inputs), fewest), most)


def rank_branches(
    base: fx.GraphModule, graph: ModelGraph, inputs: Inputs, recalibrate: Callable[[nn.Module], None], *, greedy: bool, task: Task = _TOP_1
) -> BranchRanking:
    """Return which branches a model misses least.

    The loss of a removal is the task's divergence from the unchanged model's outputs, after batch-norm recalibration. `greedy`
    measures again after each removal, because branches stand in for one another; otherwise each is removed alone, once.

    Args:
        inputs: training items. recalibrate: sets batch-norm statistics in place.
    """
    with torch.inference_mode():
        wanted = outputs_of(base(*tensors(inputs)))

    def loss(removed: list[str]) -> float:
        module = compress_module(base, graph, Plan(kept=dict.fromkeys(removed, 0))).module
        recalibrate(module)
        with torch.inference_mode():
            found = float(task.divergence(outputs_of(module(*tensors(inputs))), wanted))
        return found if math.isfinite(found) else math.inf  # NaN would sort anywhere; a model that collapses is missed most

    left = [branch.group for branch in graph.branches]
    alone = {group: loss([group]) for group in left}
    if not greedy:
        return BranchRanking(tuple(sorted(left, key=alone.__getitem__)), alone)
    order: list[str] = []
    losses = alone
    while left:
        order.append(min(left, key=losses.__getitem__))
        left.remove(order[-1])
        losses = {group: loss([*order, group]) for group in left}
    return BranchRanking(tuple(order), alone)
