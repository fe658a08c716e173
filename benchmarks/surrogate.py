"""A surrogate of the CIFAR-10 (JPEG) ResNet-20's plans, fitted to the real ones in benchmarks/results/plan_table.jsonl."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, VotingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paretopress.core.plan import FLOAT_BITS, Plan
from paretopress.spaces.space import ALPHA, TEMPERATURE, SearchSpace
from paretopress.spaces.variables import Value

# plans that lose no more are those that a search compares
NEAR_POINTS = 10.0
DISTILLATION = (TEMPERATURE, ALPHA)


class Surrogate:
    """Predicts (latency ratio, accuracy, MACs) of parameters.

    Ratio and drop of accuracy are each the mean of three regressors of their logarithm: boosted trees, extremely randomised trees, and
    kernel ridge. They see the plan one-hot, each layer's share of multiply-adds that is left, and what these come to in float and in
    int8; not what a run's tables predict, so that no sampler is judged by its own belief. Multiply-adds are counted. `error` is that of a
    five-fold cross-validation: the mean absolute error of the logarithm of the ratio, of the accuracy in points, and of the latter on
    plans that lose at most 10 points.
    """

    def __init__(self, space: SearchSpace, rows: list[Mapping[str, object]], baseline_accuracy: float) -> None:
        self._space, self._baseline_accuracy = space, baseline_accuracy
        x = np.array([self._features(space.plan(space.defaults() | row["params"])) for row in rows])
        shape = x[:, : -len(DISTILLATION)]  # latency does not depend on how a plan is trained
        ratio = np.log([row["ratio"] for row in rows])
        accuracy = np.array([row["val_accuracy"] for row in rows])
        drop = np.log1p(np.maximum(baseline_accuracy - accuracy, 0.0))
        folds = KFold(5, shuffle=True, random_state=0)
        predicted = cross_val_predict(_regressor(), shape, ratio, cv=folds)
        hoped = self._accuracy(cross_val_predict(_regressor(), x, drop, cv=folds))
        near = baseline_accuracy - accuracy <= NEAR_POINTS
        self.error = {
            "ratio": float(np.mean(np.abs(predicted - ratio))),
            "accuracy": float(np.mean(np.abs(hoped - accuracy))),
            "accuracy_near": float(np.mean(np.abs(hoped - accuracy)[near])),
        }
        self._ratio, self._drop = _regressor().fit(shape, ratio), _regressor().fit(x, drop)

    def __call__(self, params: Mapping[str, Value]) -> tuple[float, float, float]:
        plan = self._space.plan(params)
        x = np.array([self._features(plan)])
        macs = sum(macs for macs, _ in layer_macs(self._space, plan).values())
        ratio, drop = predicted(self._ratio, x[:, : -len(DISTILLATION)]), predicted(self._drop, x)
        return math.exp(ratio), float(self._accuracy(drop)), macs

    def _accuracy(self, log_drop: np.ndarray) -> np.ndarray:
        return self._baseline_accuracy - np.expm1(log_drop)

    def _features(self, plan: Plan) -> list[float]:
        params = self._space.params(plan)
        searched = [variable for variable in self._space.variables if variable.name not in DISTILLATION]
        one_hot = [value for variable in searched for value in variable.features(params[variable.name])]
        left = layer_macs(self._space, plan)
        bits = [b for _, b in left.values()]
        sums = [sum(macs for macs, b in left.values() if (b < FLOAT_BITS) is quantised) for quantised in (False, True)]
        counts = [
            float(sum(b == FLOAT_BITS for b in bits)),
            float(sum(b < FLOAT_BITS for b in bits)),
            float(sum((a < FLOAT_BITS) is not (b < FLOAT_BITS) for a, b in itertools.pairwise(bits))),
            float(sum(kept == 0 for kept in plan.kept.values())),
            float(len(plan.rank)),
        ]
        shares = [left[layer.name][0] / layer.macs if layer.name in left else 0.0 for layer in self._space.graph.layers]
        return [*one_hot, *(math.log(total + 1e5) for total in (sum(sums), *sums)), *counts, *shares, plan.temperature, plan.alpha]


def layer_macs(space: SearchSpace, plan: Plan) -> dict[str, tuple[float, int]]:
    """Return layer -> (multiply-adds, bits) under a plan, for the layers that are left; normalisation is not counted."""
    graph = space.graph
    gone = graph.removed_layers(plan.kept)
    outs, ins = {}, {}
    for group in graph.channel_groups:
        share = plan.kept.get(group.name, group.channels) / group.channels
        outs |= dict.fromkeys(group.layers, share)
        ins |= dict.fromkeys(group.feeds, share)
    bits = {name: plan.bits.get(group.name, FLOAT_BITS) for group in graph.bit_groups for name in group.layers}
    left = {}
    for layer in graph.layers:
        if layer.name in gone:
            continue
        inputs, outputs = ins.get(layer.name, 1.0), outs.get(layer.name, 1.0)
        macs = layer.macs * inputs * outputs
        if layer.name in plan.rank:
            taps = layer.in_channels * inputs * layer.kernel[0] * layer.kernel[1]
            channels = layer.out_channels * outputs
            macs *= min(plan.rank[layer.name] * (taps + channels) / (taps * channels), 1.0)
        left[layer.name] = (macs, bits.get(layer.name, FLOAT_BITS))
    return left


def predicted(fitted: VotingRegressor, x: np.ndarray) -> float:
    """Return what `fitted.predict` says to one row (1, F), but asks trees without the checks that take most of the time of a single row."""
    said = []
    for regressor in fitted.estimators_:
        if isinstance(regressor, ExtraTreesRegressor):
            row = x.astype(np.float32)
            said.append(sum(float(tree.tree_.predict(row)[0, 0]) for tree in regressor.estimators_) / len(regressor.estimators_))
        else:
            said.append(float(regressor.predict(x)[0]))
    return sum(said) / len(said)


def _regressor() -> VotingRegressor:
    return VotingRegressor(
        [
            ("boosted trees", HistGradientBoostingRegressor(random_state=0)),
            ("randomised trees", ExtraTreesRegressor(100, random_state=0)),
            ("kernel ridge", make_pipeline(StandardScaler(), KernelRidge(kernel="rbf", gamma=0.003, alpha=0.05))),
        ]
    )
