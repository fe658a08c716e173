"""The samplers `guided` (mutants of the front, screened by refitted linear models) and `programme` (also plans that are solved for)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from paretopress.pareto import dominates, hypervolume_2d, non_dominated
from paretopress.search.predictor import Known, Measured
from paretopress.spaces.space import ALPHA, TEMPERATURE, Params, SearchSpace
from paretopress.spaces.variables import Value

_PROPOSALS = 48
_RANDOM_SHARE = 0.15
_SOLVED_SHARE = 0.3
_MIN_TRIALS_TO_FIT = 12
_RIDGE = 1.0

Point = tuple[float, float]


class GuidedSampler(BaseSampler):
    """Mutates and crosses the parameters of non-dominated trials; of many proposals it takes the one that promises most.

    The promise is the hypervolume that a proposal would add to the front, in (drop of accuracy, latency), by two ridge regressions
    on one-hot parameters; both are refitted at every ask. One proposal in seven is taken unscreened, so that the models cannot
    shut a part of the space out. Where predictions are known, three in ten plans are the solution of the refitted programme at a budget
    drawn between the fastest feasible trial and the limit, or a mutant of it if it was tried before.

    The study's objectives are (accuracy maximised, MACs minimised, latency minimised). Trials with the user attribute
    `rejected_early` teach latency alone. The draws depend on the seed and the trial's number, so a resumed study goes on as the
    unbroken one would.
    """

    def __init__(self, space: SearchSpace, seed: int, known: Known | None = None) -> None:
        self._space, self._variables, self._known = space, space.variables, known
        self._distributions = space.distributions()
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all variables: they are proposed together."""
        return dict(self._distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return the parameters of the next trial."""
        rng = np.random.default_rng((self._seed, trial.number))
        done = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.params.keys() == self._distributions.keys()]
        trained = [t for t in done if not t.user_attrs.get("rejected_early", False)]
        parents = self._parents(trained) or [t.params for t in sorted(done, key=_violation)[:4]]
        if not parents:
            return {variable.name: variable.sample(rng) for variable in self._variables}
        seen = {self._space.plan(t.params) for t in done}
        if self._known is not None and rng.random() < _SOLVED_SHARE:
            solved = self._solved(self._known, done, parents, rng)
            if solved is not None and self._space.plan(solved) not in seen:
                return dict(solved)
            parents = parents if solved is None else [solved]
        proposals = [child for _ in range(_PROPOSALS) if self._space.plan(child := self._child(parents, rng)) not in seen]
        if not proposals:
            return {variable.name: variable.sample(rng) for variable in self._variables}
        if len(trained) < _MIN_TRIALS_TO_FIT or rng.random() < _RANDOM_SHARE:
            return proposals[0]
        return proposals[int(np.argmax(self._promises(proposals, done, trained)))]

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Return a uniform draw of a parameter outside the space."""
        variable = next(variable for variable in self._variables if variable.name == param_name)
        return variable.sample(np.random.default_rng((self._seed, trial.number)))

    def _solved(
        self, known: Known, done: Sequence[FrozenTrial], parents: Sequence[Mapping[str, Value]], rng: np.random.Generator
    ) -> Params | None:
        """Return the solution of the refitted programme at a random budget, with the distillation of a parent."""
        trials = [_measured(t) for t in done]
        fastest = min((t.values[2] for t in done if _violation(t) <= 0.0), default=known.limit_ms)
        low, high = np.log(0.85 * min(fastest, known.limit_ms)), np.log(known.limit_ms)
        programme = known.predictor.programme(trials, known.baseline_accuracy)
        parent = parents[int(rng.integers(len(parents)))]
        distillation = {name: parent[name] for name in (TEMPERATURE, ALPHA)}
        return known.predictor.params(programme, float(np.exp(rng.uniform(low, high))), distillation)

    def _parents(self, trained: Sequence[FrozenTrial]) -> list[dict[str, Value]]:
        """Return the parameters of the non-dominated feasible trials; empty if none is feasible."""
        feasible = [t for t in trained if _violation(t) <= 0.0]
        return [feasible[i].params for i in non_dominated([_point(t) for t in feasible])]

    def _child(self, parents: Sequence[Mapping[str, Value]], rng: np.random.Generator) -> dict[str, Value]:
        child = dict(parents[int(rng.integers(len(parents)))])
        if len(parents) > 1 and rng.random() < 0.4:
            other = parents[int(rng.integers(len(parents)))]
            child = {name: (other if rng.random() < 0.5 else child)[name] for name in child}
        for index in rng.choice(len(self._variables), size=min(1 + int(rng.poisson(1.5)), len(self._variables)), replace=False):
            variable = self._variables[int(index)]
            child[variable.name] = variable.neighbour(child[variable.name], rng)
        return child

    def _promises(
        self, proposals: Sequence[Mapping[str, Value]], done: Sequence[FrozenTrial], trained: Sequence[FrozenTrial]
    ) -> list[float]:
        wanted = self._features(proposals)
        drops = _ridge(self._features([t.params for t in trained]), np.array([_point(t)[0] for t in trained]), wanted)
        latencies = np.exp(_ridge(self._features([t.params for t in done]), np.log([_point(t)[1] for t in done]), wanted))
        feasible = [t for t in trained if _violation(t) <= 0.0] or list(trained)
        known = [_point(t) for t in feasible]
        allowed = max(latency for _, latency in known)
        worst = (max(drop for drop, _ in known) + 1.0, allowed * 1.05)
        base = hypervolume_2d(known, worst)
        promises = []
        for drop, latency in zip(drops.tolist(), latencies.tolist(), strict=True):
            gain = hypervolume_2d([*known, (drop, latency)], worst) - base
            # among those that add nothing, the least dominated first
            behind = sum(dominates(point, (drop, latency)) for point in known)
            promises.append(gain if gain > 0.0 else -float(behind) - max(0.0, latency / worst[1] - 1.0))
        return promises

    def _features(self, params: Sequence[Mapping[str, Value]]) -> np.ndarray:
        return np.array([[x for variable in self._variables for x in variable.features(p[variable.name])] for p in params], dtype=float)


def measured_trials(study: Study) -> list[Measured]:
    """Return what the completed trials of a study measured."""
    return [_measured(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def _measured(trial: FrozenTrial) -> Measured:
    accuracy, _, latency_ms = trial.values
    return Measured(trial.params, latency_ms, None if trial.user_attrs.get("rejected_early", False) else accuracy)


def _point(trial: FrozenTrial) -> Point:
    accuracy, _, latency = trial.values
    return -accuracy, latency


def _violation(trial: FrozenTrial) -> float:
    return sum(max(0.0, value) for value in trial.constraints.values())


def _ridge(features: np.ndarray, targets: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return ridge predictions (P,) for `wanted` (P, F), fitted to features (N, F) and targets (N,); the mean is not shrunk."""
    centre, level = features.mean(axis=0), targets.mean()
    shifted = features - centre
    gram = shifted @ shifted.T + _RIDGE * np.eye(len(targets))
    dual = np.linalg.solve(gram, targets - level)
    return np.asarray(level + (wanted - centre) @ (shifted.T @ dual))
