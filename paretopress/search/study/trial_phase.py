"""The trial phase: ask for plans, evaluate them, tell Optuna."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError, SearchFailedError, TargetLostError, WorkerDiedError, typed_line
from paretopress.search.candidates import Candidate
from paretopress.search.early_stopping import early_stop
from paretopress.search.fidelity.ladder import Evaluate, RungLadder
from paretopress.search.fidelity.remeasurement import OCCASIONS
from paretopress.search.limits import WORDS
from paretopress.search.samplers.guided import PREDICTED_ACCURACY
from paretopress.search.storage import records as keys
from paretopress.search.storage.heartbeat import fail_stale, heartbeat
from paretopress.search.storage.records import Records, retry_once
from paretopress.search.storage.slots import queued, rank
from paretopress.search.study.context import SearchContext
from paretopress.search.study.event_format import STOPPED_EARLY, TRIAL, describe, event_fields
from paretopress.search.study.fresh_plans import USED_UP, FreshPlans
from paretopress.search.study.time_budget import TimeBudget
from paretopress.spaces.space import SearchSpace

_SAME_FAILURES = 10


@dataclass(slots=True)
class TrialPhase:
    """The trials of one process, evaluated on `workers` threads; `ladder` are the rungs that a trial may climb."""

    session: SearchContext
    space: SearchSpace
    evaluate: Evaluate
    ladder: Sequence[Rung]
    workers: int
    _next_look_s: float = field(init=False, default=0.0)
    _fresh: FreshPlans = field(init=False)

    def __post_init__(self) -> None:
        self._fresh = FreshPlans(self.space)

    def work(self) -> None:
        """Evaluate trials until the phase is over; each thread runs this loop.

        Raises: SearchFailedError: the first trials all failed for one reason. TargetLostError: nothing can be measured.
        """
        session = self.session
        while (trial := self._ask()) is not None:
            try:
                with nullcontext() if session.leases is None else heartbeat(session.study, trial):
                    self._evaluate(trial)
            except UpdateFinishedTrialError:  # this process was not heard of for so long that the trial was given to another
                session.on_change(f"trial {trial.number}: another process had ended it meanwhile, and its result is left out")
            del session.under_way[trial.number]  # not in a `finally`: what a process that is told to leave was at is given back
            session.repeat_a_latency(OCCASIONS)
            session.times.note()

    def _ask(self) -> Trial | None:
        """Return the next trial, or None when the trials are over."""
        session = self.session
        with session.lock:
            if session.leases is not None and time.monotonic() >= self._next_look_s:
                self._next_look_s = time.monotonic() + session.leases.grace_s / WORDS
                fail_stale(session.study, session.leases)
            session.records.refresh()
            if session.over():
                return None
            started, rest = session.clock(), 0.0 if session.times.in_finalists else rest_trials(session.records, session.times)
            if rest < 1.0 or self._stops_early(rest) or self._is_used_up():
                trial = self._asked_retry()
            else:
                trial = session.study.ask(fixed_distributions=self.space.distributions())
            if trial is None or self._was_taken(trial):
                return None
            session.under_way[trial.number] = trial
            session.event("asked", trial=trial.number, seconds=session.clock() - started)
            return trial

    def _asked_retry(self) -> Trial | None:
        """Return a queued retry of an interrupted trial; None if there is none, or no time.

        Optuna gives out what was queued first: what is before the retry is queued again behind it.
        """
        session = self.session
        if not retry_is_due(session.records, session.times):
            return None
        for _ in range(session.records.slots().others + 1):
            trial = session.study.ask(fixed_distributions=self.space.distributions())
            if keys.RETRY_OF in trial.user_attrs:
                return trial
            self._put_back(trial)
        return None

    def _put_back(self, trial: Trial) -> None:
        """Queue a trial that was asked for again, behind what is queued."""
        queued(self.session.study, trial, trial.user_attrs)
        self.session.study.tell(trial, state=TrialState.FAIL)

    def _was_taken(self, trial: Trial) -> bool:
        """Return whether to give up a trial because other processes took the last places at the same moment.

        Of those the ones with the lowest ranks are evaluated; a retry has that of what it retries, which had its place before them.
        """
        session = self.session
        if session.leases is None or session.limits.trials is None or trial.number < session.limits.trials:
            return False
        session.records.refresh()
        if rest_trials(session.records, session.times, below=rank(trial)) >= 1.0:
            return False
        if keys.RETRY_OF in trial.user_attrs:
            self._put_back(trial)
        else:
            session.study.tell(trial, state=TrialState.FAIL)
        return True

    def _is_used_up(self) -> bool:
        """Return whether the space is exhausted, which is recorded; queue an untried plan where the sampler only repeats itself."""
        session, records = self.session, self.session.records
        if USED_UP in records.attributes:
            return True
        slots = records.slots()
        if slots.others or slots.retries:
            return False
        # of the study alone, so that a resumed one goes on alike; processes beside one another draw apart
        rng = np.random.default_rng(None if session.leases is not None else len(slots.ended))
        proposal = self._fresh.proposal(records, rng)
        if isinstance(proposal, str):
            records.add_attribute(USED_UP, proposal)
            session.on_change(proposal)
            session.event(STOPPED_EARLY, reason=proposal)
        elif proposal is not None:
            session.study.enqueue_trial(dict(proposal))
        return isinstance(proposal, str)

    def _stops_early(self, rest: float) -> bool:
        """Return whether to end the trials early; the reason is recorded and reported."""
        session = self.session
        if not session.limits.stop_early or math.isinf(rest):
            return False
        if session.records.early_stop() is not None:
            return True
        stop = early_stop(session.records.volumes(session.bounds), int(rest * self.workers))
        if stop is None or not session.within_all_bounds():
            return False
        session.records.add_early_stop(stop)
        session.on_change(stop.describe())
        session.event(STOPPED_EARLY, reason=stop.describe())
        return True

    def _evaluate(self, trial: Trial) -> None:
        session = self.session
        started = session.clock()
        plan = self.space.plan(trial.params)
        trial.set_user_attr(keys.PLAN, plan.to_json())
        if session.leases is not None:
            trial.set_user_attr(keys.WORKER, session.leases.worker)
        climber = RungLadder(self.evaluate, self.ladder, session.bounds, session.records.climbs())
        try:
            outcome, accuracies = self._copied(trial, plan) or climber.climb(plan, trial.number)
        except TargetLostError:  # says nothing of the plan: the trial is left running, as by a process that died, and resume tries it again
            raise
        except Exception as error:  # one trial's failure, whatever it is, is recorded with its reason and costs that trial alone
            if not session.stopping:  # else it was cut off with the run, and is left as by a process that died
                with session.lock:
                    self._record_failure(trial, error, started)
            return
        with session.lock:
            self._record(trial, Candidate(trial.number, plan, outcome), accuracies, climber, started)

    def _copied(self, trial: Trial, plan: Plan) -> tuple[Outcome, Mapping[Rung, float]] | None:
        """Return the outcome of an equal plan that was evaluated; parameters that differ mean the same plan where a branch is removed."""
        known = self.session.records.copy_of(plan)
        if known is None:
            return None
        candidate, climb = known
        trial.set_user_attr(keys.COPY_OF, candidate.number)
        return candidate.outcome, climb.accuracies

    def _record(self, trial: Trial, candidate: Candidate, accuracies: Mapping[Rung, float], climber: RungLadder, started: float) -> None:
        session, outcome, bounds = self.session, candidate.outcome, self.session.bounds
        # the study is told the figure that the front uses: the pooled latency, its interval widened by the drift
        judged = session.records.pooled(outcome)
        trial.set_user_attr(keys.OUTCOME, outcome.to_json())
        trial.set_user_attr(keys.ACCURACIES, {str(int(rung)): accuracy for rung, accuracy in accuracies.items()})
        trial.set_user_attr(keys.REJECTED, bool(outcome.rejected))
        if outcome.rejected and bounds.within_costs(outcome):
            trial.set_user_attr(keys.OUTRACED, True)
            trial.set_user_attr(PREDICTED_ACCURACY, climber.predicted_accuracy(outcome))
        together = [*session.records.trial_candidates(), replace(candidate, outcome=judged)]
        trial.set_user_attr(keys.VOLUME, bounds.hypervolume(together))
        for name, violation in bounds.constraints(judged).items():
            trial.set_constraint(name, violation)
        duration_s = session.clock() - started
        trial.set_user_attr(keys.DURATION, duration_s)
        session.records.add_ended(session.study.tell(trial, [_reported_accuracy(accuracies), outcome.macs, judged.latency.latency_ms]))
        session.on_change(f"trial {trial.number}: {outcome.rejected or describe(outcome, bounds)}")
        session.event(TRIAL, trial=trial.number, seconds=duration_s, **event_fields(outcome))

    def _record_failure(self, trial: Trial, error: Exception, started: float) -> None:
        session, reason = self.session, typed_line(error)
        cut_off = isinstance(error, OutOfTimeError)
        again = isinstance(error, WorkerDiedError) and retry_once(session.study, trial)
        if cut_off:
            trial.set_user_attr(keys.CUT_OFF, True)
        elif not again:
            trial.set_user_attr(keys.ERROR, reason)
            trial.set_user_attr(keys.DURATION, session.clock() - started)
        session.study.tell(trial, state=TrialState.FAIL)
        session.records.refresh()
        session.on_change(f"trial {trial.number}: {'tried once more' if again else 'failed'}, {reason}")
        session.event("retried" if again else "failed", trial=trial.number, seconds=session.clock() - started, reason=reason)
        failures = session.records.failure_reasons()
        if len(failures) >= _SAME_FAILURES and len(set(failures)) == 1 and session.records.counts().completed == 0:
            raise SearchFailedError(
                f"the first {len(failures)} trials all failed for the same reason: {reason}",
                "Nothing in the search space gets round it; mend the cause, then `paretopress resume`.",
            ) from error


def rest_trials(records: Records, times: TimeBudget, below: float = math.inf) -> float:
    """Return how many more trials the limits allow after the places of lower rank that are taken."""
    return times.rest_trials(records.durations(), records.slots().open(below))


def retry_is_due(records: Records, times: TimeBudget) -> bool:
    """Return whether a queued trial that tries a cut off one again is to be evaluated, though the trials may be over otherwise."""
    retries = records.slots().retries
    return bool(retries) and records.early_stop() is None and rest_trials(records, times, below=min(map(rank, retries))) >= 1.0


def _reported_accuracy(accuracies: Mapping[Rung, float]) -> float:
    """Return the accuracy that the sampler learns: that of the first rung with training, else the untrained one."""
    return next((accuracies[rung] for rung in sorted(accuracies) if rung > Rung.COSTS), accuracies.get(Rung.COSTS, 0.0))
