"""The study: asks for plans, has them evaluated, tells Optuna; every step is in the journal before the next begins."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from paretopress.errors import ConfigError, RunFolderError, SearchFailedError
from paretopress.measurement import Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.finalists import next_finalist
from paretopress.search.samplers import make_sampler
from paretopress.spaces.space import SearchSpace

STUDY_NAME = "paretopress"
_SAME_FAILURES = 10


class Evaluate(Protocol):
    """Carries out a plan and measures the candidate; raises what goes wrong."""

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung; `number` is its trial."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When the search ends: after `trials`, or so that everything is done within `seconds`, of which `finalist_share` is theirs."""

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


@dataclass(frozen=True, slots=True)
class Counts:
    """How the trials ended."""

    completed: int
    rejected_early: int
    failed: int


@dataclass(slots=True)
class Search:
    """One search over one study; `elapsed_s` counts over all processes that worked on it.

    `on_change` is called after every trial with a line about it. `clock` returns seconds.
    """

    study: optuna.Study
    space: SearchSpace
    evaluate: Evaluate
    bounds: Bounds
    limits: Limits
    val_images: int
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

    def run(self, seeds: Sequence[Plan]) -> None:
        """Search, then recover the finalists in full.

        Raises: SearchFailedError: the first trials all failed for one reason.
        """
        self._queue(seeds)
        while self._has_time_for_a_trial():
            self._trial()
            self.study.set_user_attr("elapsed_s", self.elapsed_s)
        self._finalists()

    def candidates(self) -> list[Candidate]:
        """Return all evaluated candidates, those with a full recovery by its figures."""
        return stored_candidates(self.study)

    def short_candidates(self) -> list[Candidate]:
        """Return all evaluated candidates by the figures of their trial; one for each plan."""
        return _short_candidates(self.study)

    def finals(self) -> dict[int, Outcome]:
        """Return trial number -> outcome of its full recovery."""
        return stored_finals(self.study)

    def counts(self) -> Counts:
        """Return how many trials were completed, rejected before training, and failed."""
        return count_trials(self.study)

    def _queue(self, seeds: Sequence[Plan]) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # a process that died left it; its parameters are tried again under a new number
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(dict(trial.params), user_attrs={"retry_of": trial.number})
        if not self.study.user_attrs.get("seeded", False):
            for plan in seeds:
                self.study.enqueue_trial(dict(self.space.params(plan)), skip_if_exists=True)
            self.study.set_user_attr("seeded", True)

    def _has_time_for_a_trial(self) -> bool:
        finished = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished() and "interrupted" not in t.user_attrs]
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
        except KeyboardInterrupt:
            trial.set_user_attr("interrupted", True)
            self.study.tell(trial, state=TrialState.FAIL)
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

    def _finalists(self) -> None:
        self.study.set_user_attr("elapsed_s", self.elapsed_s)
        slowest = 0.0
        while (finalist := self._next_finalist()) is not None:
            if self.limits.seconds is not None and self.elapsed_s + slowest > self.limits.seconds:
                return
            started = self.clock()
            try:
                stored = self.evaluate(finalist.plan, Rung.FINAL, finalist.number).to_json()
                line = describe(Outcome.from_json(stored), self.bounds)
            except Exception as error:  # as for a trial: recorded with its reason, and the others go on
                stored = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
                line = f"failed, {stored['error']}"
            slowest = max(slowest, self.clock() - started)
            self.study.set_user_attr("finals", self.study.user_attrs.get("finals", {}) | {str(finalist.number): stored})
            self.study.set_user_attr("elapsed_s", self.elapsed_s)
            self.on_change(f"finalist {finalist.number}: {line}")

    def _next_finalist(self) -> Candidate | None:
        tried = {int(number) for number in self.study.user_attrs.get("finals", {})}
        if len(tried) >= self.limits.finalists:
            return None
        finals = self.finals()
        pool = [c for c in self.short_candidates() if c.number in finals or c.number not in tried]
        return next_finalist(pool, finals, self.bounds, self.val_images)


def stored_finals(study: optuna.Study) -> dict[int, Outcome]:
    """Return trial number -> outcome of its full recovery, from a study."""
    stored = study.user_attrs.get("finals", {})
    return {int(number): Outcome.from_json(value) for number, value in stored.items() if "error" not in value}


def stored_candidates(study: optuna.Study) -> list[Candidate]:
    """Return all evaluated candidates of a study, one for each plan, those with a full recovery by its figures."""
    finals = stored_finals(study)
    return [Candidate(c.number, c.plan, finals.get(c.number, c.outcome)) for c in _short_candidates(study)]


def _short_candidates(study: optuna.Study) -> list[Candidate]:
    trials = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if "copy_of" not in t.user_attrs]
    return [Candidate(t.number, Plan.from_json(t.user_attrs["plan"]), Outcome.from_json(t.user_attrs["outcome"])) for t in trials]


def describe(outcome: Outcome, bounds: Bounds) -> str:
    """Return "98.1 % at 0.210 ms (2.4x)"."""
    latency = outcome.latency.latency_ms
    return f"{outcome.val_accuracy:.2f} % at {latency:.3f} ms ({bounds.baseline_ms / latency:.2f}x)"


def failure_reasons(study: optuna.Study) -> list[str]:
    """Return the reasons of the failed trials, in order."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [t.user_attrs["error"] for t in failed if "error" in t.user_attrs]


def count_trials(study: optuna.Study) -> Counts:
    """Return how the finished trials of a study ended; trials that a dead process left are among the failed."""

    def number(state: TrialState) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(state,))

    complete = number(TrialState.COMPLETE)
    rejected = sum(bool(t.user_attrs.get("rejected_early", False)) for t in complete)
    return Counts(len(complete) - rejected, rejected, len(number(TrialState.FAIL)))


def create_study(journal: Path, sampler_name: str, space: SearchSpace, seed: int) -> optuna.Study:
    """Return the study kept in a journal file, new or as it was left.

    Objectives: accuracy (maximised), MACs and latency (minimised). The samplers of Optuna start a resumed study with another seed, so
    that they do not propose the first plans again.
    """
    storage = JournalStorage(JournalFileBackend(str(journal)))
    done = 0
    if STUDY_NAME in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        done = len(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # metric names and multivariate TPE, "experimental" since 2023 and 2020
        sampler = make_sampler(sampler_name, space, seed if sampler_name == "guided" else seed + 1_000 * done)
        study = optuna.create_study(
            storage=storage, study_name=STUDY_NAME, directions=["maximize", "minimize", "minimize"], sampler=sampler, load_if_exists=True
        )
        study.set_metric_names(["val_accuracy", "macs", "latency_ms"])
    return study


def open_study(journal: Path) -> optuna.Study:
    """Return the study of a journal for reading; raises RunFolderError if there is none."""
    if not journal.is_file():
        raise RunFolderError(f"a run must have a journal, but {journal} is missing", "Was the search started, and is this its folder?")
    return optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(str(journal))))
