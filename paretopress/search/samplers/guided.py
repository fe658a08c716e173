"""The samplers `guided` (mutants of the front, screened by refitted models) and `programme` (also plans that are solved for)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from paretopress.core.pareto import non_dominated
from paretopress.core.plan import Plan
from paretopress.search.fidelity.remeasurement import OCCASIONS
from paretopress.search.samplers.predictor import MeasuredTrial, PriorKnowledge
from paretopress.search.samplers.surrogate import Observation, Surrogate
from paretopress.spaces.space import Params, SearchSpace
from paretopress.spaces.variables import Value

_PROPOSALS = 96
_RANDOM_SHARE = 0.1
_SOLVED_SHARE = 0.3
# the same share while most trials are over the budget, and too few were trained to fit the drop
_STARVED_SHARE = 0.5
# proposals that are taken by the least predicted drop while every trained plan loses too much
_LEAST_DROP_SHARE = 0.5
_MIN_TRIALS_TO_FIT = 12
# how far a latency's interval reaches above it is taken from so many trials, the newest
_WIDTHS_FROM = 50
# a plan that misses the bounds by less than this share can be a parent, and so many of them
_NEAR_MISS, _NEAR_MISSES = 0.2, 6

# user attribute of a trial that was stopped before its training: the accuracy that it was predicted to reach at the first rung that trains
PREDICTED_ACCURACY = "predicted_accuracy"

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _CompletedTrial:
    """What the sampler uses of a completed trial, derived once.

    `accuracy` is measured, or predicted where the trial was stopped before its training, or None. `over_limit` is the upper end of the
    latency interval as a multiple of the limit, None where it was not told. `seen` is None where the baseline's accuracy is not known.
    """

    plan: Plan
    params: Params
    latency_ms: float
    accuracy: float | None
    trained: bool
    violation: float
    over_limit: float | None
    seen: Observation | None

    @classmethod
    def of(cls, trial: FrozenTrial, plan: Plan, baseline: float | None) -> Self:
        trained, violation = _trained(trial), sum(max(0.0, value) for value in trial.constraints.values())
        accuracy = trial.values[0] if trained else trial.user_attrs.get(PREDICTED_ACCURACY)
        over_limit = 1.0 + trial.constraints["latency_ms"] if "latency_ms" in trial.constraints else None
        found = cls(plan, trial.params, trial.values[2], accuracy, trained, violation, over_limit, None)
        return found if baseline is None else replace(found, seen=found.against(baseline))

    @property
    def feasible(self) -> bool:
        return self.trained and self.violation <= 0.0

    def against(self, baseline: float) -> Observation:
        """Return the trial as the surrogate sees it, by the accuracy of the baseline."""
        return Observation(self.plan, self.latency_ms, None if self.accuracy is None else baseline - self.accuracy, self.feasible)


class GuidedSampler(BaseSampler):
    """Mutates and crosses the parameters of the front and of near misses, and takes the proposal of highest expected improvement.

    The expected improvement is the hypervolume that a proposal is predicted to add to the front, in (drop of accuracy, latency), by the
    `Surrogate`; predictions start from the cost tables where there are any, and are refitted to the trials. Parents are the front and
    plans just over a bound. One proposal in ten is taken unscreened, so that a wrong model cannot exclude a part of the space. With
    `solves` three plans in ten are the solution of the refitted programme at a budget drawn between the fastest feasible trial and the
    limit, or a mutant of it if it was tried before.

    While every trained plan loses more than the user's bound allows, half of the proposals are taken by the least predicted drop among
    those that are predicted to be within the budget: the front's fast end has no use then.

    While too few trials were trained to fit the drop, because most are over the budget, half of the plans are such solutions, and of other
    proposals the one of least damage by the tables is taken among those that are predicted to be within the budget, else the fastest.

    The study's objectives are (accuracy maximised, MACs minimised, latency minimised). Trials with the user attribute
    `rejected_early` teach latency alone, or, with `PREDICTED_ACCURACY`, what their training was predicted to come to. The draws depend on
    the seed and the trial's number, so a resumed study goes on as the unbroken one would.
    """

    def __init__(self, space: SearchSpace, seed: int, known: PriorKnowledge | None = None, *, solves: bool = False) -> None:
        self._space, self._variables, self._known = space, space.variables, known
        self._solves = solves and known is not None
        self._screen = Surrogate(space, known)
        self._distributions = space.distributions()
        self._seed = seed
        self._plans: dict[int, Plan] = {}
        self._ended: dict[int, _CompletedTrial] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all variables: they are proposed together."""
        return dict(self._distributions)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return the parameters of the next trial."""
        rng = np.random.default_rng((self._seed, trial.number))
        known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        plans = {t.number: plan for t in known if (plan := self._plan(t)) is not None}
        done = [self._end(t, plans[t.number]) for t in known if t.state is TrialState.COMPLETE and t.number in plans]
        parents = self._parents(done)
        if not parents:
            return {variable.name: variable.sample(rng) for variable in self._variables}
        seen = set(plans.values())  # also those that other workers are evaluating
        trained = sum(t.trained for t in done)
        starved = self._known is not None and trained < _MIN_TRIALS_TO_FIT <= 2 * (len(done) - trained)
        share = _STARVED_SHARE if starved else _SOLVED_SHARE if self._solves else 0.0
        if self._known is not None and share and rng.random() < share:
            solved = self._solved(self._known, done, parents, rng)
            if solved is not None and self._space.plan(solved) not in seen:
                return dict(solved)
            parents = parents if solved is None else [solved]
        children = [self._offspring(parents, rng) for _ in range(_PROPOSALS)]
        proposals = [(child, plan) for child in children if (plan := self._space.plan(child)) not in seen]
        if not proposals:
            return {variable.name: variable.sample(rng) for variable in self._variables}
        if (trained < _MIN_TRIALS_TO_FIT and not starved) or rng.random() < _RANDOM_SHARE:
            return proposals[0][0]
        plans_proposed, seen_trials, aim_ms = [plan for _, plan in proposals], self._seen(done), self._aim_ms(done)
        judge = self._screen.least_damage_within if starved else self._screen.expected_improvement
        if not starved and self._loses_too_much(done) and rng.random() < _LEAST_DROP_SHARE:
            judge = self._screen.least_drop_within
        return proposals[int(np.argmax(judge(plans_proposed, seen_trials, aim_ms)))][0]

    def _loses_too_much(self, done: Sequence[_CompletedTrial]) -> bool:
        """Return whether every plan that was trained so far lost more than the user's bound allows."""
        if self._known is None or self._known.max_drop is None:
            return False
        least = self._known.baseline_accuracy - self._known.max_drop
        return all(t.accuracy is None or t.accuracy < least for t in done if t.trained and t.violation <= 0.0)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Return a uniform draw of a parameter outside the space."""
        variable = next(variable for variable in self._variables if variable.name == param_name)
        return variable.sample(np.random.default_rng((self._seed, trial.number)))

    def _solved(
        self, known: PriorKnowledge, done: Sequence[_CompletedTrial], parents: Sequence[Params], rng: np.random.Generator
    ) -> Params | None:
        """Return the solution of the refitted programme at a random budget, with the distillation and importance of a parent."""
        trials = [MeasuredTrial(t.params, t.latency_ms, t.accuracy if t.trained else None) for t in done]
        aim_ms = self._aim_ms(done) or known.limit_ms
        fastest = min((t.latency_ms for t in done if t.violation <= 0.0), default=aim_ms)
        low, high = np.log(0.85 * min(fastest, aim_ms)), np.log(aim_ms)
        programme = known.predictor.programme(trials, known.baseline_accuracy)
        parent = parents[int(rng.integers(len(parents)))]
        return known.predictor.params(programme, float(np.exp(rng.uniform(low, high))), self._space.unpriced(parent))

    def _aim_ms(self, done: Sequence[_CompletedTrial]) -> float | None:
        """Return the latency that plans are to be below, None where the limit is not known: the limit, less the reserve for the interval.

        A trial's interval covers the sampling of one occasion and the drift between occasions that the run has seen so far; it will have
        shrunk with the root of `OCCASIONS` by the time that the point is reported.
        """
        if self._known is None:
            return None
        limit_ms = self._known.limit_ms
        # one that was over the limit was measured once, and its interval leaves the drift out
        told = [(t.over_limit, t.latency_ms) for t in done if t.trained and t.over_limit is not None]
        widths = [np.log(over_limit * limit_ms / latency_ms) for over_limit, latency_ms in told[-_WIDTHS_FROM:]]
        return limit_ms * float(np.exp(-max(float(np.median(widths)), 0.0) / np.sqrt(OCCASIONS))) if widths else limit_ms

    def _parents(self, done: Sequence[_CompletedTrial]) -> list[Params]:
        """Return the parameters of the front and of the nearest misses; of the four nearest, however far, if there are neither."""
        feasible = [t for t in done if t.feasible]
        missed = sorted((t for t in done if t.violation > 0.0), key=lambda t: t.violation)
        front = [feasible[i] for i in non_dominated([(-(t.accuracy or 0.0), t.latency_ms) for t in feasible])]
        near = [t for t in missed if t.violation <= _NEAR_MISS][:_NEAR_MISSES]
        return [t.params for t in [*front, *near] or missed[:4]]

    def _seen(self, done: Sequence[_CompletedTrial]) -> list[Observation]:
        baseline = self._known.baseline_accuracy if self._known is not None else max(t.accuracy or 0.0 for t in done if t.trained)
        return [t.seen or t.against(baseline) for t in done]

    def _plan(self, trial: FrozenTrial) -> Plan | None:
        """Return the plan of a trial, or None where another process has not written its parameters yet."""
        if trial.number not in self._plans and trial.params.keys() == self._distributions.keys():
            self._plans[trial.number] = self._space.plan(trial.params)
        return self._plans.get(trial.number)

    def _end(self, trial: FrozenTrial, plan: Plan) -> _CompletedTrial:
        if trial.number not in self._ended:
            self._ended[trial.number] = _CompletedTrial.of(trial, plan, None if self._known is None else self._known.baseline_accuracy)
        return self._ended[trial.number]

    def _offspring(self, parents: Sequence[Params], rng: np.random.Generator) -> dict[str, Value]:
        child = dict(parents[int(rng.integers(len(parents)))])
        if len(parents) > 1 and rng.random() < 0.4:
            other = parents[int(rng.integers(len(parents)))]
            child = {name: (other if rng.random() < 0.5 else child)[name] for name in child}
        for index in rng.choice(len(self._variables), size=min(1 + int(rng.poisson(1.5)), len(self._variables)), replace=False):
            variable = self._variables[int(index)]
            child[variable.name] = variable.neighbour(child[variable.name], rng)
        return child


def measured_trials(study: Study) -> list[MeasuredTrial]:
    """Return what the completed trials of a study measured."""
    return [_measured(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def _measured(trial: FrozenTrial) -> MeasuredTrial:
    accuracy, _, latency_ms = trial.values
    return MeasuredTrial(trial.params, latency_ms, accuracy if _trained(trial) else None)


def _trained(trial: FrozenTrial) -> bool:
    return not trial.user_attrs.get("rejected_early", False)
