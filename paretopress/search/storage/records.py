"""Records of a study: candidates by trial and by full fine-tuning, repeated latencies, scores by rung, and how trials ended."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.core.untrusted_values import is_number, parse_latency, parse_outcome, parse_plan, require
from paretopress.errors import ForeignDataError
from paretopress.search.candidates import Bounds, Candidate, RungScores
from paretopress.search.early_stopping import EarlyStop
from paretopress.search.fidelity.latency_pooling import Spread, drift_of, pooled
from paretopress.search.storage.slots import CUT_OFF as CUT_OFF
from paretopress.search.storage.slots import ERROR as ERROR
from paretopress.search.storage.slots import PLAN as PLAN
from paretopress.search.storage.slots import RETRY_OF as RETRY_OF
from paretopress.search.storage.slots import Slots
from paretopress.search.storage.slots import retry_once as retry_once

# attributes of a study: one for each full recovery (by its trial), and one for each repeated latency (by its file and moment), so that
# workers that write at the same time do not overwrite one another
_FINAL, LATENCY = "final/", "latency/"
EARLY_STOP = "stopped_early"
# attributes of a trial, beside those of `slots`
OUTCOME, ACCURACIES, VOLUME = "outcome", "accuracies", "hypervolume"
REJECTED, OUTRACED, COPY_OF = "rejected_early", "outraced", "copy_of"
DURATION, WORKER = "duration_s", "worker"
_CUT_OFF_TWICE = "its process ended, and that of its second try too"


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of trials by how they ended: fine-tuned, over a bound before any training, not promoted before any training, or failed."""

    completed: int
    rejected_early: int
    failed: int
    outraced: int = 0

    @property
    def all(self) -> int:
        """The number of trials."""
        return self.completed + self.rejected_early + self.outraced + self.failed


@dataclass(frozen=True, slots=True)
class _Evaluated:
    candidate: Candidate
    climb: RungScores


@dataclass(frozen=True, slots=True)
class _Pooling:
    """Replaces an outcome's latency by the one pooled over its occasions; a rejected one was measured once and is left."""

    repeated: Mapping[str, list[Latency]]
    between: float

    def __call__(self, outcome: Outcome) -> Outcome:
        if outcome.rejected:
            return outcome
        return replace(outcome, latency=pooled(self.repeated.get(outcome.onnx_sha256) or [outcome.latency], self.between))

    def depends_on(self, outcome: Outcome) -> tuple[int, float]:
        """Return what the pooled latency of an outcome changes with."""
        return len(self.repeated.get(outcome.onnx_sha256, ())), self.between


@dataclass(slots=True)
class _Reading:
    """A snapshot of a study, with derived values that are expensive to compute."""

    trials: Mapping[TrialState, list[FrozenTrial]]
    attributes: Mapping[str, Any]
    evaluated: list[_Evaluated] | None = None
    pooling: _Pooling | None = None
    candidates: list[Candidate] | None = None
    slots: Slots | None = None


def _attributes(study: optuna.Study) -> dict[str, Any]:
    """Return Study.user_attrs, but not copied in depth: of a long run that takes longer than to read them."""
    try:
        return dict(study._storage.get_study_user_attrs(study._study_id))
    except AttributeError:  # these two are not of Optuna's public interface
        return study.user_attrs


class Records:
    """The records of one study, as it was at the last `refresh`; a first one is made when it is needed.

    What this process adds itself is there at once. Several threads may ask at a time. A reading costs: in a storage that many share it
    fetches all trials in flight, with all their parameters.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._evaluated: dict[int, _Evaluated] = {}
        self._number_of: dict[Plan, int] = {}
        self._begun_plans: dict[int, Plan] = {}  # of trials that failed or are under way
        self._refused: dict[str, str] = {}  # what the study holds in the place of figures, and why it is left out
        self._first: dict[str, Latency] = {}  # by file, as the trial's evaluation measured it
        self._again: dict[str, dict[str, Latency]] = {}  # by file and name, those of later occasions
        self._spreads: dict[str, Spread] = {}
        self._pooled: dict[int, tuple[tuple[int, float], Candidate]] = {}
        self._last: _Reading | None = None
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Read what was added to the study since, by others or past these records."""
        with self._lock:
            trials: dict[TrialState, list[FrozenTrial]] = {}
            for trial in self.study.get_trials(deepcopy=False):
                trials.setdefault(trial.state, []).append(trial)
            self._last = _Reading(trials, _attributes(self.study))

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The study's own attributes."""
        return self._reading().attributes

    def add_attribute(self, name: str, value: Any) -> None:
        """Set one of the study's own attributes, to what can be written as JSON."""
        self.study.set_user_attr(name, value)
        with self._lock:
            reading = self._reading()
            reading.attributes = {**reading.attributes, name: value}  # a copy: other threads may be going through it
            if name.startswith(LATENCY):
                reading.pooling = reading.candidates = None

    def add_ended(self, trial: FrozenTrial) -> None:
        """Add a trial that this process has just told of."""
        with self._lock:
            reading = self._reading()
            others = {state: [t for t in trials if t.number != trial.number] for state, trials in reading.trials.items()}
            others[trial.state] = [*others.get(trial.state, []), trial]
            self._last = _Reading(others, reading.attributes)

    def slots(self) -> Slots:
        """Return which trials take a place of a limited number."""
        with self._lock:
            reading = self._reading()
            if reading.slots is None:
                reading.slots = Slots.of(reading.trials)
            return reading.slots

    def left_running(self) -> bool:
        """Return whether trials are under way that a process has named as its own."""
        return any(WORKER in trial.user_attrs for trial in self._trials(TrialState.RUNNING))

    def tried(self) -> int:
        """Return how many trials began that were not given up for a retry: at least as many as there are plans that were tried."""
        slots = self.slots()
        return len(slots.ended) + len(slots.begun)

    def plans(self) -> set[Plan]:
        """Return the plans that were evaluated, failed for good, or are under way."""
        with self._lock:
            self._read()
            others = [t for t in (*self.slots().ended, *self._trials(TrialState.RUNNING)) if t.state is not TrialState.COMPLETE]
            begun = (self._begun_plan(t) for t in others if PLAN in t.user_attrs)
            return {*self._number_of, *(plan for plan in begun if plan is not None)}

    def copies_in_a_row(self, most: int) -> int:
        """Return how many of the last trials, up to `most`, were uninformative: copies, and plans that had failed before."""
        last = heapq.nlargest(most, self.slots().ended, key=lambda trial: trial.number)
        return len(list(itertools.takewhile(self._is_uninformative, last)))

    def trial_candidates(self) -> list[Candidate]:
        """Return all evaluated candidates by the figures of their trial, one for each plan, latencies pooled over all occasions."""
        with self._lock:
            reading = self._reading()
            if reading.candidates is None:
                pooling = self._pooling()
                reading.candidates = [self._pooled_candidate(found.candidate, pooling) for found in self._read()]
            return list(reading.candidates)

    def candidates(self) -> list[Candidate]:
        """Return all evaluated candidates, one for each plan, those with a full recovery by its figures."""
        finals = self.finals()
        return [replace(c, outcome=finals[c.number]) if c.number in finals else c for c in self.trial_candidates()]

    def finals(self) -> dict[int, Outcome]:
        """Return trial number -> outcome of its full recovery, latencies pooled over all occasions."""
        pooling = self._pooling()
        return {number: pooling(outcome) for number, outcome in self._final_outcomes().items()}

    def finals_tried(self) -> set[int]:
        """Return the trials whose full recovery was tried, also those where it failed."""
        return set(self._stored_finals())

    def add_final(self, number: int, stored: Mapping[str, Any]) -> None:
        """Keep the outcome of a trial's full recovery as JSON, or {"error": reason}."""
        self.add_attribute(f"{_FINAL}{number}", dict(stored))

    def latencies(self) -> dict[str, list[Latency]]:
        """Return sha256 -> latencies of every file that was measured more than once, by occasion."""
        with self._lock:
            first = self._first_latencies()
            for name, value in self.attributes.items():
                if name.startswith(LATENCY):
                    occasions = self._again.setdefault(name.removeprefix(LATENCY).partition("/")[0], {})
                    if name not in occasions and name not in self._refused and (again := self._received(name, value)) is not None:
                        occasions[name] = again
            known = ((sha256, occasions) for sha256, occasions in self._again.items() if sha256 in first)
            return {sha256: [first[sha256], *(again for _, again in sorted(occasions.items()))] for sha256, occasions in known}

    def add_latency(self, outcome: Outcome, again: Latency) -> None:
        """Keep one more latency of a candidate's file."""
        self.add_attribute(f"{LATENCY}{outcome.onnx_sha256}/{time.time_ns():020d}", again.to_json())

    def early_stop(self) -> EarlyStop | None:
        """Return why the trials ended early, or None if they did not."""
        stored = self.attributes.get(EARLY_STOP)
        return None if stored is None else EarlyStop(**stored)

    def add_early_stop(self, stop: EarlyStop) -> None:
        """Keep why the trials end early."""
        self.add_attribute(EARLY_STOP, asdict(stop))

    def copy_of(self, plan: Plan) -> tuple[Candidate, RungScores] | None:
        """Return what is known of a plan that was evaluated, else None."""
        self._read()
        number = self._number_of.get(plan)
        if number is None:
            return None
        found = self._evaluated[number]
        return replace(found.candidate, outcome=self._pooling()(found.candidate.outcome)), found.climb

    def climbs(self) -> list[RungScores]:
        """Return the scores by rung of the evaluated plans, in the order of their trials."""
        return [found.climb for found in self._read()]

    def volumes(self, bounds: Bounds) -> list[float]:
        """Return the hypervolume of the trials' candidates after each completed trial, in their order.

        All by what is known now: the volume that a trial left as it ended (its attribute `VOLUME`) rests on latencies of one occasion,
        and the luckiest of those would hide for long what later trials add.
        """
        known = {candidate.number: candidate for candidate in self.trial_candidates()}
        return bounds.hypervolumes([known.get(number) for number in sorted(t.number for t in self._trials(TrialState.COMPLETE))])

    def pooled(self, outcome: Outcome) -> Outcome:
        """Return an outcome with its latency pooled over the occasions on which its file was measured, the drift in its interval."""
        return self._pooling()(outcome)

    def counts(self) -> Counts:
        """Return how the finished trials ended; those that a dead process left, or that are tried again, are among the failed,
        those that were asked for and never begun are not."""
        complete = self._trials(TrialState.COMPLETE)
        untrained = sum(bool(t.user_attrs.get(REJECTED, False)) for t in complete)
        outraced = sum(bool(t.user_attrs.get(OUTRACED, False)) for t in complete)
        failed = sum(PLAN in t.user_attrs for t in self._trials(TrialState.FAIL))
        return Counts(len(complete) - untrained, untrained - outraced, failed, outraced)

    def failure_reasons(self) -> list[str]:
        """Return the reasons of the failed trials, in order; those that were tried again have none. Then why others were not taken in."""
        self._read()
        failed = [t.user_attrs for t in self.slots().ended if t.state is TrialState.FAIL]
        reasons = [attributes.get(ERROR, _CUT_OFF_TWICE) for attributes in failed if ERROR in attributes or RETRY_OF in attributes]
        return reasons + list(self._refused.values())

    def durations(self) -> list[float | None]:
        """Return the seconds of every trial that counts against a limit: completed, or failed for good; None where it is not known."""
        return [trial.user_attrs.get(DURATION) for trial in self.slots().ended]

    def _begun_plan(self, trial: FrozenTrial) -> Plan | None:
        """Return the plan of a trial, None where the study holds something else in its place."""
        if trial.number not in self._begun_plans:
            with suppress(ForeignDataError):
                self._begun_plans[trial.number] = parse_plan(trial.user_attrs[PLAN], f"trial {trial.number}")
        return self._begun_plans.get(trial.number)

    def _is_uninformative(self, trial: FrozenTrial) -> bool:
        if trial.state is TrialState.COMPLETE:
            return COPY_OF in trial.user_attrs
        earlier = (t for t in self.slots().ended if t.state is TrialState.FAIL and t.number < trial.number)
        return PLAN in trial.user_attrs and any(t.user_attrs.get(PLAN) == trial.user_attrs[PLAN] for t in earlier)

    def _reading(self) -> _Reading:
        with self._lock:
            if self._last is None:
                self.refresh()
            assert self._last is not None
            return self._last

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._reading().trials.get(state, [])

    def _read(self) -> list[_Evaluated]:
        """Return the evaluated trials in order; a copy only repeats the figures, pooled by then, of the trial that it names."""
        with self._lock:
            reading = self._reading()
            if reading.evaluated is None:
                for t in self._trials(TrialState.COMPLETE):
                    if t.number not in self._evaluated and COPY_OF not in t.user_attrs:
                        self._take_in(t)
                reading.evaluated = [found for _, found in sorted(self._evaluated.items())]
            return reading.evaluated

    def _take_in(self, t: FrozenTrial) -> None:
        """Keep what an evaluated trial holds; one that holds something else is as if it had failed, and its reason is kept."""
        name = f"trial {t.number}"
        if name in self._refused:
            return
        try:
            plan, outcome = parse_plan(t.user_attrs.get(PLAN), name), parse_outcome(t.user_attrs.get(OUTCOME), name)
            accuracies = {Rung(int(rung)): value for rung, value in t.user_attrs.get(ACCURACIES, {}).items()}
            require(all(map(is_number, accuracies.values())), f"the accuracies of {name}", accuracies)
        except (ForeignDataError, TypeError, ValueError, AttributeError) as error:
            self._refused[name] = str(error)
            return
        self._evaluated[t.number] = _Evaluated(Candidate(t.number, plan, outcome), RungScores(accuracies, t.values[2]))
        self._number_of.setdefault(plan, t.number)
        self._first[outcome.onnx_sha256] = outcome.latency

    def _received(self, name: str, value: object) -> Latency | None:
        try:
            return parse_latency(value, name)
        except ForeignDataError as error:
            self._refused[name] = str(error)
            return None

    def _stored_finals(self) -> dict[int, Mapping[str, Any]]:
        stored = {name.removeprefix(_FINAL): value for name, value in self.attributes.items() if name.startswith(_FINAL)}
        return {int(number): value for number, value in stored.items() if number.isdecimal() and isinstance(value, Mapping)}

    def _final_outcomes(self) -> dict[int, Outcome]:
        """Return trial number -> outcome of its full recovery as it was measured; one that holds something else is as if it had failed."""
        found = {}
        for number, value in sorted(self._stored_finals().items()):
            if ERROR not in value:
                try:
                    found[number] = parse_outcome(value, f"finalist {number}")
                except ForeignDataError as error:
                    self._refused[f"finalist {number}"] = str(error)
        return found

    def _first_latencies(self) -> dict[str, Latency]:
        """Return sha256 -> latency, as the evaluation measured it."""
        self._read()
        return {**self._first, **{outcome.onnx_sha256: outcome.latency for outcome in self._final_outcomes().values()}}

    def _pooled_candidate(self, candidate: Candidate, pooling: _Pooling) -> Candidate:
        now = pooling.depends_on(candidate.outcome)
        known = self._pooled.get(candidate.number)
        if known is None or known[0] != now:
            known = self._pooled[candidate.number] = now, replace(candidate, outcome=pooling(candidate.outcome))
        return known[1]

    def _spread(self, file: tuple[str, list[Latency]]) -> Spread:
        sha256, latencies = file
        if sha256 not in self._spreads or self._spreads[sha256].occasions != len(latencies):
            self._spreads[sha256] = Spread.of(latencies)
        return self._spreads[sha256]

    def _pooling(self) -> _Pooling:
        with self._lock:
            reading = self._reading()
            if reading.pooling is None:
                repeated = self.latencies()
                # to a thousandth: what was pooled before stays as it is until the drift is known better
                reading.pooling = _Pooling(repeated, round(drift_of(map(self._spread, repeated.items())), 3))
            return reading.pooling
