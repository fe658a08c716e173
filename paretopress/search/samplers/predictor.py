"""Predict the latency and the damage of plans from the cost tables, refitted to measured trials, and solve for a budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from paretopress.core.model_graph import Layer, LayerKind
from paretopress.core.plan import FLOAT_BITS
from paretopress.search.samplers.integer_programme import Cost, IntegerProgramme
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import REMOVED, RESOLUTION, UNPRICED, Params, SearchSpace, share_of_pixels
from paretopress.spaces.variables import Choice, Value

# how many trials a prior counts for, and the least a refitted factor may be
_STRENGTH, _LEAST_FACTOR = 4.0, 0.05
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasuredTrial:
    """What one trial measured; `accuracy` in the metric's unit, None if it was rejected before training."""

    params: Mapping[str, Value]
    latency_ms: float
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class PriorKnowledge:
    """What a sampler knows before the first trial: the predictor, the latency limit, and the baseline's score.

    `worst_drop` is the drop that hypervolumes are measured from, see `Bounds.worst_drop`; 10 points of a score in percent. `max_drop` is
    the user's bound on the drop, None where there is none.
    """

    predictor: Predictor
    limit_ms: float
    baseline_accuracy: float
    worst_drop: float = 10.0
    max_drop: float | None = None


class Predictor:
    """Linear models with a factor per layer's cost and per parameter's damage; predictions start from the cost tables (all factors 1).

    Latency: the sum over layers of the tables' milliseconds, scaled by the share of the multiply-adds that is left. The programme knows no
    resolution: at another one its milliseconds are multiplied by the share of the pixels.
    Damage: the sum over parameters of the tables' damages; refitted to trials it is a drop below the baseline, in the metric's unit.
    `tables_alone` is the programme before any trial.
    """

    def __init__(self, space: SearchSpace, tables: CostTables) -> None:
        self._space, self._tables = space, tables
        self._choices = {v.name: v for v in space.variables if isinstance(v, Choice) and len(v.values) > 1 and v.name not in UNPRICED}
        self._damages = {name: _table(choice, tables.damages.get(name, {})) for name, choice in self._choices.items()}
        self._costs = [self._cost(layer) for layer in space.graph.layers]
        self._rest_ms = tables.rest_ms[FLOAT_BITS]
        self.tables_alone = IntegerProgramme(self._damages, self._costs, self._rest_ms)

    def programme(self, trials: Sequence[MeasuredTrial], baseline_accuracy: float) -> IntegerProgramme:
        """Return the programme whose factors are refitted to the trials; with none, `tables_alone`."""
        if not trials:
            return self.tables_alone
        latencies = np.array([trial.latency_ms / share_of_pixels(trial.params) for trial in trials])
        shares = np.array([self._layer_ms(trial.params) for trial in trials]) / latencies[:, None]
        factors = shrunk_fit(shares, np.ones(len(trials)), np.ones(shares.shape[1]))
        costs = [
            Cost(cost.scope, {values: price * factor for values, price in cost.table.items()})
            for cost, factor in zip(self._costs, factors[:-1].tolist(), strict=True)
        ]
        return IntegerProgramme(self._refitted_damages(trials, baseline_accuracy), costs, self._rest_ms * float(factors[-1]))

    def params(self, programme: IntegerProgramme, limit_ms: float, unpriced: Mapping[str, Value] = MappingProxyType({})) -> Params | None:
        """Return the parameters of least predicted damage whose predicted latency is within the limit, or None if there are none.

        Args:
            unpriced: what the others are to be, the resolution among them; left out, as in the unchanged model.
        """
        chosen = programme.solve(limit_ms / share_of_pixels(unpriced))
        unchanged = self._space.defaults()
        return None if chosen is None else unchanged | chosen | self._space.unpriced(unchanged) | dict(unpriced)

    def at_each_resolution(self, programme: IntegerProgramme, limit_ms: float) -> list[Params]:
        """Return what `params` does at each resolution of the space at which it finds any."""
        offered = self._space.options.resolution
        found = [self.params(programme, limit_ms, {RESOLUTION: share} if len(offered) > 1 else {}) for share in offered]
        return [params for params in found if params is not None]

    def _refitted_damages(self, trials: Sequence[MeasuredTrial], baseline_accuracy: float) -> dict[str, dict[Value, float]]:
        trained = [(trial.params, trial.accuracy) for trial in trials if trial.accuracy is not None]
        if not trained:
            return self._damages
        features = np.array([[table[params[name]] for name, table in self._damages.items()] for params, _ in trained])
        lost = np.array([max(baseline_accuracy - accuracy, 0.0) for _, accuracy in trained])
        total = features.sum(axis=1)
        scale = float(total @ lost / max(float(total @ total), 1e-12)) or 1.0
        spread = float(np.sqrt(np.mean(lost**2))) or 1.0
        factors = shrunk_fit(features * scale / spread, lost / spread, np.ones(features.shape[1])) * scale
        return {
            name: {value: damage * factor for value, damage in table.items()}
            for (name, table), factor in zip(self._damages.items(), factors.tolist(), strict=True)
        }

    def _layer_ms(self, params: Mapping[str, Value]) -> list[float]:
        return [*(cost.table[tuple(params[name] for name in cost.scope)] for cost in self._costs), self._rest_ms]

    def _cost(self, layer: Layer) -> Cost:
        graph = self._space.graph
        outs = [f"prune/{group.name}" for group in graph.channel_groups if layer.name in group.layers]
        ins = [f"prune/{group.name}" for group in graph.channel_groups if layer.name in group.feeds]
        removes = [f"prune/{branch.group}" for branch in graph.branches if layer.name in branch.layers]
        bits = [f"bits/{group.name}" for group in graph.bit_groups if layer.name in group.layers]
        # a layer behind a concatenation has several groups before it; the first stands for all
        roles = {"out": outs[:1], "in": ins[:1], "removes": removes[:1], "bits": bits, "rank": [f"rank/{layer.name}"]}
        named = {role: names[0] for role, names in roles.items() if names and names[0] in self._choices}
        scope = tuple(dict.fromkeys(named.values()))
        table = {}
        for values in itertools.product(*(self._choices[name].values for name in scope)):
            chosen = dict(zip(scope, values, strict=True))
            table[values] = self._ms(layer, {role: chosen[name] for role, name in named.items()})
        return Cost(scope, table)

    def _ms(self, layer: Layer, chosen: Mapping[str, Value]) -> float:
        """Return the predicted milliseconds of a layer: what a node costs at least, and the rest in proportion to its multiply-adds."""
        if chosen.get("removes") == REMOVED:
            return 0.0
        by_bits = self._tables.layer_ms[layer.name]
        full_ms = by_bits.get(int(chosen.get("bits") or FLOAT_BITS), by_bits[FLOAT_BITS])
        left_out, left_in = (1.0 - float(chosen.get(role) or 0.0) for role in ("out", "in"))
        share, nodes = left_out * (1.0 if layer.kind is LayerKind.DEPTHWISE else left_in), 1
        if (rank := chosen.get("rank")) is not None:
            taps, outputs = layer.in_channels * math.prod(layer.kernel) * left_in, layer.out_channels * left_out
            factored = int(rank) * (taps + outputs) / max(taps * outputs, 1e-9)
            if factored < 1.0:  # past the break-even rank a pruned layer is left dense
                share, nodes = share * factored, 2
        floor_ms = min(self._tables.floor_ms, full_ms)
        return floor_ms * nodes + (full_ms - floor_ms) * share


def predicted_ms(programme: IntegerProgramme, params: Mapping[str, Value]) -> float:
    """Return the milliseconds that a programme predicts, at the resolution of the parameters."""
    return programme.cost(params) * share_of_pixels(params)


def shrunk_fit(features: Floats, targets: Floats, prior: Floats) -> Floats:
    """Return the coefficients (F,) of a ridge regression of targets (N,) on features (N, F) that shrinks towards `prior` (F,).

    The prior counts like `_STRENGTH` trials; coefficients are at least `_LEAST_FACTOR`, because a cost or a damage is not negative.
    """
    gram = features.T @ features
    weight = _STRENGTH * max(float(np.mean(np.diag(gram))) / len(targets), 1e-12)
    moved = np.linalg.solve(gram + weight * np.eye(len(prior)), features.T @ (targets - features @ prior))
    return np.maximum(prior + moved, _LEAST_FACTOR)


def _table(choice: Choice, known: Mapping[Value, float]) -> dict[Value, float]:
    """Return a damage for every value; one that was not judged is as harmful as the worst known."""
    worst = max(known.values(), default=0.0)
    return {value: 0.0 if value == choice.default else known.get(value, worst) for value in choice.values}
