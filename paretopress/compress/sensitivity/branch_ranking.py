"""Rank residual branches by the loss that the removal of each causes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import fx, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.sensitivity.divergence import divergence_from
from paretopress.core.model_graph import ModelGraph
from paretopress.core.model_inputs import Inputs
from paretopress.core.plan import Plan
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

_TOP_1 = Classification()
# 256 small items, fewer large ones, so that a removal is judged in about a second
_ITEMS, _VALUES = (16, 256), 2_000_000


@dataclass(frozen=True, slots=True)
class BranchRanking:
    """The groups that lead a residual branch: in the order in which to remove them, and with the loss of each removed alone.

    `cut` is what was left out for lack of time, or "".
    """

    order: tuple[str, ...]
    loss_alone: Mapping[str, float]
    cut: str = ""


def judged_items(graph: ModelGraph) -> int:
    """Return on how many items a model's parts are judged before the first trial."""
    fewest, most = _ITEMS
    return min(max(_VALUES // sum(math.prod(spec.shape) for spec in graph.inputs), fewest), most)


def rank_branches(
    base: fx.GraphModule,
    graph: ModelGraph,
    inputs: Inputs,
    recalibrate: Callable[[nn.Module], None],
    *,
    greedy: bool,
    task: Task = _TOP_1,
    deadline: Deadline = NO_DEADLINE,
) -> BranchRanking:
    """Return the branches in the order of the loss that their removal causes, and those losses.

    The loss of a removal is the task's divergence from the unchanged model's outputs, after batch-norm recalibration. `greedy`
    measures again after each removal, because branches stand in for one another; otherwise each is removed alone, once. After the
    deadline the order goes by the losses that are known; a branch that was not judged counts as the one that is missed most.

    Args:
        inputs: training items. recalibrate: sets batch-norm statistics in place.
    """
    divergence = divergence_from(base, inputs, task)

    def loss(removed: list[str]) -> float:
        module = compress_module(base, graph, Plan(kept=dict.fromkeys(removed, 0))).module
        recalibrate(module)
        found = divergence(module)
        return found if math.isfinite(found) else math.inf  # NaN would sort anywhere; a model that collapses is missed most

    left = [branch.group for branch in graph.branches]
    alone: dict[str, float] = {}
    for group in left:
        if alone and deadline.passed:
            break
        alone[group] = loss([group])
    judged = len(alone)
    alone |= {group: max(alone.values()) for group in left if group not in alone}
    if not greedy or judged < len(left):
        cut = f"{judged} of {len(left)} branches were judged" if judged < len(left) else ""
        return BranchRanking(tuple(sorted(left, key=alone.__getitem__)), alone, cut)
    order: list[str] = []
    losses, count, cut = alone, len(left), ""
    while left:
        if deadline.passed and len(left) > 1 and order:
            cut = f"{len(order) + 1} of {count} branches were ranked beside those removed before"
            return BranchRanking((*order, *sorted(left, key=losses.__getitem__)), alone, cut)
        order.append(min(left, key=losses.__getitem__))
        left.remove(order[-1])
        losses = {group: loss([*order, group]) for group in left} if not deadline.passed else losses
    return BranchRanking(tuple(order), alone)
