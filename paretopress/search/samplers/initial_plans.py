"""Initial plans of a study: uniform pruning and int8, branches removed by importance, and solutions of the cost tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paretopress.core.model_graph import ModelGraph
from paretopress.core.plan import Plan
from paretopress.search.samplers.predictor import Predictor, predicted_ms
from paretopress.spaces.space import RESOLUTION, SearchSpace

_WIDE_CHANNELS = 32
_BRANCHES_BESIDE_PRUNING = (0.25, 0.5, 0.75)
# shares of the limit that plans are solved for before the first trial: a prediction may err on either side
_LADDER = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4)
_LOWER_LADDER = (0.85, 0.6)
# what the tables predict to take so many times the limit is not tried first; what is nearer to it can be a parent of what is within
_FAR_OVER = 1.2


def initial_plans(space: SearchSpace, removal_order: Sequence[str]) -> list[Plan]:
    """Return distinct plans, most promising first under a tight budget.

    They are: the unchanged model; uniform int8, also at each lower resolution; branches removed one after another, least important first,
    in int8 and in int8 of the wide layers alone; uniform ratios of 25, 50 and 75 % in int8 and float; int8 with one and two branches
    removed and the rest at 50 %, and with a quarter, half and three quarters of the branches removed and the rest at 25 %. Where the space
    leaves a knob out they do without it; branches that it cannot remove are passed over.

    Args:
        removal_order: groups that lead a residual branch, least important first.
    """
    int8, wide = int8_bits(space, 1), int8_bits(space, _WIDE_CHANNELS)
    order = [group for group in removal_order if space.can_remove(group)]
    plans = [Plan(), Plan(bits=int8), *(Plan(bits=int8, resolution=share) for share in space.options.resolution[1:])]
    for count in range(1, len(order) + 1):
        removed = dict.fromkeys(order[:count], 0)
        plans += [Plan(kept=removed, bits=int8), Plan(kept=removed, bits=wide)]
    for ratio in (0.25, 0.5, 0.75):
        kept = space.uniform_kept(ratio)
        plans += [Plan(kept=kept, bits=int8), Plan(kept=kept)]
    for count, ratio in [*((count, 0.5) for count in (1, 2)), *((round(share * len(order)), 0.25) for share in _BRANCHES_BESIDE_PRUNING)]:
        if 0 < count <= len(order):
            plans.append(Plan(kept=space.uniform_kept(ratio) | dict.fromkeys(order[:count], 0), bits=int8))
    unchanged = space.plan(space.defaults())
    temperature, alpha, importance = unchanged.temperature, unchanged.alpha, space.options.importance[0]
    whole = [replace(plan, temperature=temperature, alpha=alpha, importance=importance) for plan in plans]
    canonical = [space.plan(space.params(plan)) for plan in whole]
    return list(dict.fromkeys(canonical))


def without_slow(plans: Sequence[Plan], space: SearchSpace, predictor: Predictor, limit_ms: float) -> list[Plan]:
    """Return the plans but those that the tables predict to be far over the latency limit.

    The first two stay, the unchanged model and uniform int8, from which the tables are corrected; and where all others are too slow, the
    one that is predicted the fastest.
    """
    predicted = {plan: predicted_ms(predictor.tables_alone, space.params(plan)) for plan in plans[2:]}
    kept = [plan for plan, ms in predicted.items() if ms <= _FAR_OVER * limit_ms]
    return [*plans[:2], *(kept or sorted(predicted, key=predicted.__getitem__)[:1])]


def with_solved(seeds: Sequence[Plan], solved: Sequence[Plan]) -> list[Plan]:
    """Return the distinct plans of both; the solved ones come after the first two initial plans."""
    return list(dict.fromkeys([*seeds[:2], *solved, *seeds[2:]]))


def ladder_plans(space: SearchSpace, predictor: Predictor, limit_ms: float) -> list[Plan]:
    """Return the plans of least predicted damage for a ladder of latency budgets below the limit, the highest budget first.

    They are those at the full resolution, then one or two at each lower one.
    """
    programme = predictor.programme([], 100.0)
    solved = [predictor.params(programme, share * limit_ms) for share in _LADDER]
    for resolution in space.options.resolution[1:]:
        solved += [predictor.params(programme, share * limit_ms, {RESOLUTION: resolution}) for share in _LOWER_LADDER]
    return list(dict.fromkeys(space.plan(params) for params in solved if params is not None))


def int8_bits(space: SearchSpace, min_channels: int) -> dict[str, int]:
    """Return 8 bits for every bit group with enough output channels (classifiers always)."""
    graph: ModelGraph = space.graph
    output = graph.layers[-1].name
    return {
        group.name: 8
        for group in graph.bit_groups
        if space.offers(group, 8)
        and (output in group.layers or min(graph.layer(name).out_channels for name in group.layers) >= min_channels)
    }
