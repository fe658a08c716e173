"""The study: asks for plans, has them evaluated, tells Optuna; every step is in the journal before the next begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import optuna
from optuna.trial import Trial, TrialState

from paretopress.errors import LatencyError, SearchFailedError, TargetLostError
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Bounds, Candidate, front
from paretopress.search.climbing import RUNGS, Climber, Evaluate, climb_pairs
from paretopress.search.finalists import next_finalist
from paretopress.search.guided import PREDICTED_ACCURACY
from paretopress.search.journal import (
    ACCURACIES,
    FINALS,
    OUTRACED,
    VOLUME,
    Counts,
    climbs,
    count_trials,
    failure_reasons,
    store_latency,
    stored_candidates,
    stored_finals,
    stored_latencies,
    trial_candidates,
    volumes,
)
from paretopress.search.limits import Limits
from paretopress.search.racing import Agreement, agreement
from paretopress.search.stopping import Stall, stalled
from paretopress.spaces.space import SearchSpace

_SAME_FAILURES = 10
# where the set-up took the trials' share of a short run, so many plans are tried all the same
_FEWEST_TRIALS = 5
# a point of the front is measured again once after every trial, in turn; each final one on at least so many occasions
_OCCASIONS, _FINAL_OCCASIONS = 6, 3
_FINALISTS_FROM, _STALL = "finalists_from_s", "stopped_early"


@dataclass(slots=True)
class Search:
    """One search over one study; `elapsed_s` counts over all processes that worked on it.

    `ladder` are the rungs that a trial may climb. `measure_again` repeats the latency of a candidate's file. `on_change` is called after
    every trial with a line about it. `clock` returns seconds.
    """

    study: optuna.Study
    space: SearchSpace
    evaluate: Evaluate
    bounds: Bounds
    limits: Limits
    val_images: int
    ladder: Sequence[Rung] = RUNGS
    measure_again: Callable[[Outcome], Latency] | None = None
    on_change: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    setup_s: float = 0.0
    _started: float = field(init=False)
    _before: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._before = float(self.study.user_attrs.get("elapsed_s", self.setup_s))

    @property
    def elapsed_s(self) -> float:
        """Seconds of work on this study so far."""
        return self._before + self.clock() - self._started

    @property
    def in_finalists(self) -> bool:
        """Whether the trials are over and finalists are being recovered."""
        return _FINALISTS_FROM in self.study.user_attrs

    @property
    def phase_s(self) -> float:
        """Seconds of work since the phase began: the trials, or the finalists."""
        return self.elapsed_s - float(self.study.user_attrs.get(_FINALISTS_FROM, self.setup_s))

    def run(self, seeds: Sequence[Plan]) -> None:
        """Search, then recover the finalists in full.

        Raises: SearchFailedError: the first trials all failed for one reason. TargetLostError: nothing can be measured; all but the trial
            in flight is kept.
        """
        self._queue(seeds)
        while self._has_time_for_a_trial() and not self._has_stalled():
            self._trial()
            self._repeat_a_latency(_OCCASIONS)
            self.study.set_user_attr("elapsed_s", self.elapsed_s)
        self._finalists()
        while self._repeat_a_latency(_FINAL_OCCASIONS, final=True):
            pass

    def candidates(self) -> list[Candidate]:
        """Return all evaluated candidates, those with a full recovery by its figures."""
        return stored_candidates(self.study)

    def short_candidates(self) -> list[Candidate]:
        """Return all evaluated candidates by the figures of their trial; one for each plan."""
        return trial_candidates(self.study)

    def finals(self) -> dict[int, Outcome]:
        """Return trial number -> outcome of its full recovery."""
        return stored_finals(self.study)

    def counts(self) -> Counts:
        """Return how many trials were completed, rejected or outraced before training, and failed."""
        return count_trials(self.study)

    def agreements(self) -> list[Agreement]:
        """Return how each two neighbouring rungs agreed on the plans that were seen at both."""
        seen = climbs(self.study)
        steps = zip(self.ladder[:-1], self.ladder[1:], strict=True)
        return [agreement(lower, higher, climb_pairs(seen, lower, higher, self.bounds)) for lower, higher in steps]

    def seconds(self) -> dict[str, float]:
        """Return the seconds of work by what they went to: set-up, each stage, latencies measured again, and what is left over.

        "recover" is training, "other" what no stage of a trial accounts for: proposing, the journal, reports.
        """
        spent = {"setup": self.setup_s}
        for outcome in [*(c.outcome for c in self.short_candidates()), *self.finals().values()]:
            for name, duration_s in outcome.stages_s.items():
                spent[name] = spent.get(name, 0.0) + duration_s
        again = stored_latencies(self.study).values()
        spent["latency"] = spent.get("latency", 0.0) + sum(latency.duration_s for latencies in again for latency in latencies[1:])
        return spent | {"other": max(self.elapsed_s - sum(spent.values()), 0.0)}

    def stall(self) -> Stall | None:
        """Return why the trials ended early, or None if they did not."""
        stored = self.study.user_attrs.get(_STALL)
        return None if stored is None else Stall(**stored)

    def _queue(self, seeds: Sequence[Plan]) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # a process that died left it; its parameters are tried once more under a new number
            if "retry_of" not in trial.user_attrs:
                self.study.enqueue_trial(dict(trial.params), user_attrs={"retry_of": trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)
        if not self.study.user_attrs.get("seeded", False):
            for plan in seeds:
                self.study.enqueue_trial(dict(self.space.params(plan)), skip_if_exists=True)
            self.study.set_user_attr("seeded", True)

    def _has_time_for_a_trial(self) -> bool:
        return not self.in_finalists and self._rest_trials() >= 1.0

    def _rest_trials(self) -> float:
        """Return how many more trials the limits allow, infinite if nothing is known yet."""
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        finished = [t for t in ended if t.state is TrialState.COMPLETE or "error" in t.user_attrs]  # the others died with their process
        rest = math.inf if self.limits.trials is None else float(self.limits.trials - len(finished))
        durations = sorted(t.user_attrs["duration_s"] for t in finished if "duration_s" in t.user_attrs)
        if self.limits.seconds is None:
            return rest
        share = 1.0 - self.limits.finalist_share if len(finished) >= _FEWEST_TRIALS else 1.0
        left_s = self.limits.seconds * share - self.elapsed_s
        # three in four trials end sooner
        expected_s = durations[int(0.75 * (len(durations) - 1))] if durations else 0.0
        return min(rest, left_s / expected_s if expected_s else math.inf if left_s > 0.0 else 0.0)

    def _has_stalled(self) -> bool:
        """Return whether to end the trials early; the reason is kept and told."""
        rest = self._rest_trials()
        if not self.limits.stop_early or math.isinf(rest):
            return False
        stall = stalled(volumes(self.study), int(rest))
        if stall is None:
            return False
        self.study.set_user_attr(_STALL, asdict(stall))
        self.on_change(stall.describe())
        return True

    def _trial(self) -> None:
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        started = self.clock()
        plan = self.space.plan(trial.params)
        trial.set_user_attr("plan", plan.to_json())
        before = self.short_candidates()
        try:
            climber = Climber(self.evaluate, self.ladder, self.bounds, climbs(self.study))
            outcome, accuracies = self._copied(trial, plan, before) or climber.climb(plan, trial.number)
        except TargetLostError:  # says nothing of the plan: the trial is left running, as by a process that died, and resume tries it again
            raise
        except Exception as error:  # one trial's failure, whatever it is, is recorded with its reason and costs that trial alone
            self._record_failure(trial, error, started)
            return
        trial.set_user_attr("outcome", outcome.to_json())
        trial.set_user_attr(ACCURACIES, {str(int(rung)): accuracy for rung, accuracy in accuracies.items()})
        trial.set_user_attr("rejected_early", bool(outcome.rejected))
        if outcome.rejected and self.bounds.within_costs(outcome):
            trial.set_user_attr(OUTRACED, True)
            trial.set_user_attr(PREDICTED_ACCURACY, climber.predicted_accuracy(outcome))
        trial.set_user_attr(VOLUME, self.bounds.hypervolume([*before, Candidate(trial.number, plan, outcome)]))
        for name, violation in self.bounds.constraints(outcome).items():
            trial.set_constraint(name, violation)
        trial.set_user_attr("duration_s", self.clock() - started)
        self.study.tell(trial, [_told(accuracies), outcome.macs, outcome.latency.latency_ms])
        self.on_change(f"trial {trial.number}: {outcome.rejected or describe(outcome, self.bounds)}")

    def _copied(self, trial: Trial, plan: Plan, before: Sequence[Candidate]) -> tuple[Outcome, Mapping[Rung, float]] | None:
        """Return what is known of the plan: different parameters mean the same one where a branch is removed."""
        known = next((c for c in before if c.plan == plan), None)
        if known is None:
            return None
        trial.set_user_attr("copy_of", known.number)
        original = self.study.get_trials(deepcopy=False)[known.number]
        return known.outcome, {Rung(int(rung)): value for rung, value in original.user_attrs.get(ACCURACIES, {}).items()}

    def _record_failure(self, trial: Trial, error: Exception, started: float) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        trial.set_user_attr("error", reason)
        trial.set_user_attr("duration_s", self.clock() - started)
        self.study.tell(trial, state=TrialState.FAIL)
        self.on_change(f"trial {trial.number}: failed, {reason}")
        failures = failure_reasons(self.study)
        if len(failures) >= _SAME_FAILURES and len(set(failures)) == 1 and self.counts().completed == 0:
            raise SearchFailedError(
                f"the first {len(failures)} trials all failed for the same reason: {reason}",
                "Nothing in the search space gets round it; mend the cause, then `paretopress resume`.",
            ) from error

    def _repeat_a_latency(self, occasions: int, *, final: bool = False) -> bool:
        """Measure one file again: of the front, or astride the budget, the one seen on the fewest occasions. Return whether that was done.

        So the front's order is not that of one state of the machine. A failure is told and costs that occasion alone.
        """
        if self.measure_again is None:
            return False
        candidates = [c for c in self.candidates() if c.outcome.rung is Rung.FINAL] if final else self.candidates()
        unsure = [c for c in candidates if self.bounds.straddles(c.outcome)]
        pool = [c for c in [*front(candidates, self.bounds), *unsure] if c.outcome.latency.occasions < occasions]
        if not pool:
            return False
        candidate = min(pool, key=lambda c: c.outcome.latency.occasions)
        try:
            again = self.measure_again(candidate.outcome)
        except LatencyError as error:
            self.on_change(f"trial {candidate.number}: its latency was not measured again, {error}")
            return False
        store_latency(self.study, candidate.outcome, again)
        return True

    def _finalists(self) -> None:
        self.study.set_user_attr("elapsed_s", self.elapsed_s)
        if not self.in_finalists:
            self.study.set_user_attr(_FINALISTS_FROM, self.elapsed_s)
        slowest = 0.0
        while (finalist := self._next_finalist()) is not None:
            if self.elapsed_s + slowest > self._ends_s():
                return
            started = self.clock()
            try:
                stored = self.evaluate(finalist.plan, Rung.FINAL, finalist.number).to_json()
                line = describe(Outcome.from_json(stored), self.bounds)
            except TargetLostError:
                raise
            except Exception as error:  # as for a trial: recorded with its reason, and the others go on
                stored = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
                line = f"failed, {stored['error']}"
            slowest = max(slowest, self.clock() - started)
            self.study.set_user_attr(FINALS, self.study.user_attrs.get(FINALS, {}) | {str(finalist.number): stored})
            self.study.set_user_attr("elapsed_s", self.elapsed_s)
            self._repeat_a_latency(_OCCASIONS)
            self.on_change(f"finalist {finalist.number}: {line}")

    def _ends_s(self) -> float:
        """Return the seconds of work after which no finalist may be under way."""
        if self.limits.seconds is None:
            return math.inf
        if self.stall() is None:
            return self.limits.seconds
        return float(self.study.user_attrs[_FINALISTS_FROM]) + self.limits.finalist_share * self.limits.seconds

    def _next_finalist(self) -> Candidate | None:
        tried = {int(number) for number in self.study.user_attrs.get(FINALS, {})}
        if len(tried) >= self.limits.finalists and (self.limits.seconds is None or not tried):
            return None  # where time bounds the run, what is left of it goes to further finalists
        finals = self.finals()
        pool = [c for c in self.short_candidates() if c.number in finals or c.number not in tried]
        return next_finalist(pool, finals, self.bounds, self.val_images)


def _told(accuracies: Mapping[Rung, float]) -> float:
    """Return the accuracy that the sampler learns: that of the first rung that trains, which most plans reach, or the untrained."""
    return next((accuracies[rung] for rung in sorted(accuracies) if rung > Rung.COSTS), accuracies.get(Rung.COSTS, 0.0))


def describe(outcome: Outcome, bounds: Bounds) -> str:
    """Return "98.1 % at 0.210 ms (2.4x)"."""
    latency = outcome.latency.latency_ms
    return f"{outcome.val_accuracy:.2f} % at {latency:.3f} ms ({bounds.baseline_ms / latency:.2f}x)"
