"""Surrogate model: rank proposals by expected hypervolume improvement, from two ridge regressions that are refitted at every ask."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from paretopress.core.pareto import hypervolume_2d, non_dominated
from paretopress.core.plan import Plan
from paretopress.search.samplers.predictor import PriorKnowledge, predicted_ms
from paretopress.spaces.space import Params, SearchSpace

_RIDGE = 1.0
# The coefficient of a prediction is shrunk a ninth as much as that of a choice: predictions start from the tables, trials correct them.
_PRIOR_WEIGHT, _SWITCH_WEIGHT = 3.0, 1.0
# a tenth of the drop that hypervolumes are measured from is one unit: drops are told apart in logarithms of 1 + drop / unit
_UNIT_SHARE = 0.1
# without a known scale the hypervolume is measured from so much more than the worst drop of a plan that is within the bounds
_BEYOND_WORST = 1.1
# promises that differ by less, relative to what there is to gain, differ by rounding: the earlier proposal is taken
_ROUNDING = 9
# floors of the logarithms: a plan that the tables expect to cost no time, or to do no damage
_LEAST_MS, _DAMAGE_FLOOR = 1e-6, 0.02
# the regressions are fitted to so many trials, the newest: the coefficients are a few hundred, and more would only slow a long study down
_MOST_FITTED = 1_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observation:
    """A trial as the surrogate sees it.

    `drop` is against the baseline, in the metric's unit: measured, predicted for a plan that was stopped before its training, or None for
    one that is over a bound. `feasible` plans are trained and within all bounds.
    """

    plan: Plan
    latency_ms: float
    drop: float | None
    feasible: bool


class Surrogate:
    """Predicts the logarithms of latency and drop by ridge regression.

    Features: the plan's choices one-hot, choices without effect left out; where tables are known, for latency the logarithm of the
    predicted milliseconds and how often the width changes from layer to layer, for the drop the logarithm of the predicted damage.
    """

    def __init__(self, space: SearchSpace, known: PriorKnowledge | None) -> None:
        self._space, self._known = space, known
        self._features: dict[Plan, tuple[Floats, Floats]] = {}
        self._proposed: dict[Plan, tuple[Floats, Floats]] = {}
        self._pools = ThreadpoolController()

    def expected_improvement(self, proposals: Sequence[Plan], seen: Sequence[Observation], aim_ms: float | None = None) -> Floats:
        """Return for each proposal (P,) the hypervolume it would add; where that is nothing, less than 0, the least dominated highest.

        The hypervolume is that of (drop, latency), from the known scale's worst drop (or just below the best known one, if that is more)
        and the latency `aim_ms`, by default the limit, or 1.05 times the slowest where none is known; as a share of both.
        """
        judged = [s for s in seen if s.drop is not None]
        points = [(s.drop or 0.0, s.latency_ms) for s in judged if s.feasible] or [(s.drop or 0.0, s.latency_ms) for s in judged]
        slowest_ms = 1.05 * max(ms for _, ms in points)
        limit_ms = aim_ms or (self._known.limit_ms if self._known is not None else slowest_ms)
        most = self._known.worst_drop if self._known is not None else _BEYOND_WORST * max(drop for drop, _ in points)
        most = most if most > 0.0 else 1.0  # nothing lost anything
        unit = _UNIT_SHARE * most
        latencies, drops = self._predictions(proposals, seen, unit)
        worst = (max(most, min(drop for drop, _ in points) + unit), limit_ms)
        best, all_points = [points[i] for i in non_dominated(points)], np.asarray(points)
        base = hypervolume_2d(best, worst)
        promises = []
        for point in zip(drops.tolist(), latencies.tolist(), strict=True):
            gain = round((hypervolume_2d([*best, point], worst) - base) / (most * limit_ms), _ROUNDING)
            behind = int(((all_points <= point).all(axis=1) & (all_points < point).any(axis=1)).sum())
            promises.append(gain if gain > 0.0 else -float(behind) - 5.0 * max(0.0, point[1] / limit_ms - 1.0))
        return np.asarray(promises)

    def least_drop_within(self, proposals: Sequence[Plan], seen: Sequence[Observation], aim_ms: float | None = None) -> Floats:
        """Return scores of the proposals (P,), the highest the best, while no plan has lost as little as the bound on the drop allows.

        A proposal that is predicted to take at most `aim_ms`, by default the limit, scores above 0, the more the less it is predicted to
        lose; another scores below 0, the less the slower it is.
        """
        assert self._known is not None
        limit_ms, unit = aim_ms or self._known.limit_ms, _UNIT_SHARE * (self._known.worst_drop or 1.0)
        latencies, drops = self._predictions(proposals, seen, unit)
        return np.where(latencies <= limit_ms, 1.0 / (1.0 + np.maximum(drops + unit, 0.0) / unit), -latencies / limit_ms)

    def _predictions(self, proposals: Sequence[Plan], seen: Sequence[Observation], unit: float) -> tuple[Floats, Floats]:
        """Return the predicted latencies (P,) in milliseconds and drops (P,) of the proposals; `unit` is one unit of the drop."""
        self._proposed = {}  # most of them are never tried: their features are kept for this call alone
        newest, judged = seen[-_MOST_FITTED:], [s for s in seen if s.drop is not None][-_MOST_FITTED:]
        self._features |= {s.plan: self._of(s.plan) for s in [*newest, *judged] if s.plan not in self._features}
        lost = np.log1p(np.maximum([(s.drop or 0.0) / unit for s in judged], 0.0))
        with self._pools.limit(limits=1, user_api="blas"):  # beside a training worker, BLAS's threads would wait for one another
            latencies = np.exp(self._ridge(0, [s.plan for s in newest], np.log([s.latency_ms for s in newest]), proposals))
            drops = unit * np.expm1(self._ridge(1, [s.plan for s in judged], lost, proposals))
        return latencies, drops

    def least_damage_within(self, proposals: Sequence[Plan], seen: Sequence[Observation], aim_ms: float | None = None) -> Floats:
        """Return scores of the proposals (P,), the highest the best, where too few trials were trained to predict the drop from.

        A proposal that is predicted to take at most `aim_ms`, by default the limit, scores above 0, the more the less damage the tables
        predict; another scores below 0, the less the slower it is. Latencies are fitted to all trials, those over the budget too.
        """
        assert self._known is not None
        limit_ms = aim_ms or self._known.limit_ms
        self._proposed, newest = {}, seen[-_MOST_FITTED:]
        with self._pools.limit(limits=1, user_api="blas"):
            latencies = np.exp(self._ridge(0, [s.plan for s in newest], np.log([s.latency_ms for s in newest]), proposals))
        tables = self._known.predictor.tables_alone
        damages = np.array([tables.damage(self._space.params(plan)) for plan in proposals])
        return np.where(latencies <= limit_ms, 1.0 / (1.0 + damages), -latencies / limit_ms)

    def _ridge(self, which: int, plans: Sequence[Plan], targets: Floats, proposals: Sequence[Plan]) -> Floats:
        """Return predictions (P,) for the proposals, fitted to targets (N,) of plans; the mean is not shrunk."""
        features, wanted = (np.stack([self._of(plan)[which] for plan in group]) for group in (plans, proposals))
        centre, level = features.mean(axis=0), targets.mean()
        shifted = features - centre
        count, width = shifted.shape
        if count <= width:  # the smaller of two systems with the same solution
            weights = shifted.T @ np.linalg.solve(shifted @ shifted.T + _RIDGE * np.eye(count), targets - level)
        else:
            weights = np.linalg.solve(shifted.T @ shifted + _RIDGE * np.eye(width), shifted.T @ (targets - level))
        return np.asarray(level + (wanted - centre) @ weights)

    def _of(self, plan: Plan) -> tuple[Floats, Floats]:
        """Return the features of a plan for its latency and for its drop."""
        found = self._features.get(plan) or self._proposed.get(plan)
        if found is None:
            params = self._space.params(plan)
            choices = [x for variable in self._space.variables for x in variable.features(params[variable.name])]
            for_latency, for_drop = self._predicted(plan, params)
            found = self._proposed[plan] = np.array([*choices, *for_latency]), np.array([*choices, *for_drop])
        return found

    def _predicted(self, plan: Plan, params: Params) -> tuple[list[float], list[float]]:
        if self._known is None:
            return [], []
        tables = self._known.predictor.tables_alone
        switches = _SWITCH_WEIGHT * width_switches(self._space, plan)
        return (
            [_PRIOR_WEIGHT * float(np.log(max(predicted_ms(tables, params), _LEAST_MS))), switches],
            [_PRIOR_WEIGHT * float(np.log(tables.damage(params) + _DAMAGE_FLOOR))],
        )


def width_switches(space: SearchSpace, plan: Plan) -> int:
    """Return how often the bits change from one layer to the next, in the model's order, over the layers that the plan leaves."""
    gone = space.graph.removed_layers(plan.kept)
    group_of = {name: group.name for group in space.graph.bit_groups for name in group.layers}
    bits = [plan.bits.get(group_of[layer.name]) for layer in space.graph.layers if layer.name in group_of and layer.name not in gone]
    return sum(a != b for a, b in itertools.pairwise(bits))
