"""The study: asks for plans, has them evaluated, tells Optuna; every step is in the journal before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.trial import Trial, TrialState

from paretopress.errors import ConfigError, LatencyError, SearchFailedError, TargetLostError
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Bounds, Candidate, front
from paretopress.search.finalists import next_finalist
from paretopress.search.journal import (
    FINALS,
    Counts,
    count_trials,
    failure_reasons,
    store_latency,
    stored_candidates,
    stored_finals,
    trial_candidates,
)
from paretopress.spaces.space import SearchSpace

_SAME_FAILURES = 10
# a point of the front is measured again once after every trial, in turn; each final one on at least so many occasions
_OCCASIONS, _FINAL_OCCASIONS = 6, 3
_FINALISTS_FROM = "finalists_from_s"


class Evaluate(Protocol):
    """Carries out a plan and measures the candidate; raises what goes wrong."""

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung; `number` is its trial."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When the search ends: after `trials`, or so that everything is done within `seconds`, of which `finalist_share` is theirs.

    `finalists` are planned for; where `seconds` are left after them, more follow.
    """

    trials: int | None = None
    seconds: float | None = None
    finalist_share: float = 0.4
    finalists: int = 6

    def __post_init__(self) -> None:
        if self.trials is None and self.seconds is None:
            raise ConfigError("a search must end, but got neither a number of trials nor a time", "Give --trials, --minutes or --hours.")
        for name in ("trials", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, but got {name}={value}")


@dataclass(slots=True)
class Search:
    """One search over one study; `elapsed_s` counts over all processes that worked on it.

    `measure_again` repeats the latency of a candidate's file. `on_change` is called after every trial with a line about it. `clock`
    returns seconds.
    """

    study: optuna.Study
    space: SearchSpace
    evaluate: Evaluate
    bounds: Bounds
    limits: Limits
    val_images: int
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
        while self._has_time_for_a_trial():
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
        """Return how many trials were completed, rejected before training, and failed."""
        return count_trials(self.study)

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
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        finished = [t for t in ended if t.state is TrialState.COMPLETE or "error" in t.user_attrs]  # the others died with their process
        if self.limits.trials is not None and len(finished) >= self.limits.trials:
            return False
        if self.limits.seconds is None:
            return True
        durations = [t.user_attrs["duration_s"] for t in finished if "duration_s" in t.user_attrs]
        expected = sorted(durations)[int(0.75 * (len(durations) - 1))] if durations else 0.0
        return self.elapsed_s + expected <= self.limits.seconds * (1.0 - self.limits.finalist_share)

    def _trial(self) -> None:
        trial = self.study.ask(fixed_distributions=self.space.distributions())
        started = self.clock()
        plan = self.space.plan(trial.params)
        trial.set_user_attr("plan", plan.to_json())
        try:
            known = next((c for c in self.short_candidates() if c.plan == plan), None)
            if known is not None:  # different parameters mean the same plan where a branch is removed
                trial.set_user_attr("copy_of", known.number)
            outcome = known.outcome if known is not None else self.evaluate(plan, Rung.SHORT, trial.number)
        except TargetLostError:  # says nothing of the plan: the trial is left running, as by a process that died, and resume tries it again
            raise
        except Exception as error:  # one trial's failure, whatever it is, is recorded with its reason and costs that trial alone
            self._record_failure(trial, error, started)
            return
        trial.set_user_attr("outcome", outcome.to_json())
        trial.set_user_attr("rejected_early", bool(outcome.rejected))
        trial.set_user_attr("duration_s", self.clock() - started)
        for name, violation in self.bounds.constraints(outcome).items():
            trial.set_constraint(name, violation)
        self.study.tell(trial, [outcome.val_accuracy, outcome.macs, outcome.latency.latency_ms])
        self.on_change(f"trial {trial.number}: {outcome.rejected or describe(outcome, self.bounds)}")

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
            if self.limits.seconds is not None and self.elapsed_s + slowest > self.limits.seconds:
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

    def _next_finalist(self) -> Candidate | None:
        tried = {int(number) for number in self.study.user_attrs.get(FINALS, {})}
        if len(tried) >= self.limits.finalists and (self.limits.seconds is None or not tried):
            return None  # where time bounds the run, what is left of it goes to further finalists
        finals = self.finals()
        pool = [c for c in self.short_candidates() if c.number in finals or c.number not in tried]
        return next_finalist(pool, finals, self.bounds, self.val_images)


def describe(outcome: Outcome, bounds: Bounds) -> str:
    """Return "98.1 % at 0.210 ms (2.4x)"."""
    latency = outcome.latency.latency_ms
    return f"{outcome.val_accuracy:.2f} % at {latency:.3f} ms ({bounds.baseline_ms / latency:.2f}x)"
