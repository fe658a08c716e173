"""The search: asks for plans, has them evaluated, tells Optuna; every step is in the journal before the next begins."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from paretopress.errors import OutOfTimeError, SearchFailedError, TargetLostError, WorkerDiedError, typed_line
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.search import records as keys
from paretopress.search.candidates import Bounds, Candidate, front
from paretopress.search.claims import Claims, renewed
from paretopress.search.climbing import RUNGS, Climber, Evaluate, climb_pairs
from paretopress.search.crew import crew
from paretopress.search.finalists import next_finalist
from paretopress.search.guided import PREDICTED_ACCURACY
from paretopress.search.heartbeat import fail_stale, heartbeat
from paretopress.search.limits import Limits
from paretopress.search.places import WORDS
from paretopress.search.racing import Agreement, agreement
from paretopress.search.records import Counts, Records, retry_once
from paretopress.search.repeats import Repeats
from paretopress.search.stopping import Stall, stalled
from paretopress.search.timetable import Timetable
from paretopress.spaces.space import SearchSpace

_SAME_FAILURES, _LOOKS_EVERY_S = 10, 1.0
# a point of the front is measured again once after every trial, in turn; each final one on at least so many occasions
_OCCASIONS, _FINAL_OCCASIONS = 6, 3
# a finalist may get less than its full recovery where the time ends, but not less than this share of it
_LEAST_SHARE = 0.3
_STALL, _SEEDED = "stopped_early", "seeded"
# events that others act on
STOPPED_EARLY, TRIAL = "stopped early", "trial"


@dataclass(slots=True)
class Search:
    """One search over one study.

    `ladder` are the rungs that a trial may climb. `measure_again` repeats the latency of a candidate's file. `recover_in_part` is the full
    recovery of (plan, trial, share of its steps); without it a recovery is whole or does not take place. `workers` trials are evaluated
    at a time. `claims` are set where other processes work on the study too. `on_change` is called after every trial with a line about it,
    `on_event` with an event's name and its fields. `cancel` ends evaluations that are under way, where the search ends in the middle of
    them. `closing_s` are the seconds kept for the end, by the points of the front. `setup_s`, `clock`: see `Timetable`.
    """

    study: optuna.Study
    space: SearchSpace
    evaluate: Evaluate
    bounds: Bounds
    limits: Limits
    val_images: int
    ladder: Sequence[Rung] = RUNGS
    measure_again: Callable[[Outcome], Latency] | None = None
    recover_in_part: Callable[[Plan, int, float], Outcome] | None = None
    workers: int = 1
    claims: Claims | None = None
    on_change: Callable[[str], None] = lambda _: None
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _, __: None
    cancel: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    setup_s: float = 0.0
    setup_stages_s: Mapping[str, float] = field(default_factory=dict)
    closing_s: Callable[[Sequence[Candidate]], float] = lambda _: 0.0
    records: Records = field(init=False)
    times: Timetable = field(init=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _under_way: dict[int, Trial | None] = field(init=False, default_factory=dict)
    _repeats: Repeats = field(init=False)
    _slowest_final_s: float = field(init=False, default=0.0)
    _next_look_s: float = field(init=False, default=0.0)
    _stopping: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.records = Records(self.study)
        self._repeats = Repeats(self.records, self.bounds, self._lock)
        shared = self.claims is not None
        clock = time.time if shared and self.clock is time.monotonic else self.clock
        self.times = Timetable(self.records, self.limits, self.setup_s, self.closing_s(()), clock, shared)

    def run(self, seeds: Sequence[Plan]) -> None:
        """Search, then recover the finalists in full.

        Raises: SearchFailedError: the first trials all failed for one reason. TargetLostError: nothing can be measured; all but the trials
            in flight is kept.
        """
        self._queue(seeds)
        self.work()
        while self.claims is not None and self.claims.others() and self.times.left_s > 0.0:
            time.sleep(_LOOKS_EVERY_S)  # other processes are at their last finalists
        self.records.refresh()

    def work(self) -> None:
        """Evaluate trials, then finalists, until there are no more: what every process does that works on a shared study.

        Raises: as `run`. Where this process is asked to leave, its trials are given back to the others.
        """
        try:
            with renewed(self.claims), crew(self.workers, self._stop) as together:
                together(self._trials)
                self.times.start_finalists()
                together(self._finalists)
                together(self._last_occasions)
        except BaseException:
            if self.claims is not None:
                self._give_back()
            raise

    def candidates(self) -> list[Candidate]:
        """Return all evaluated candidates, those with a full recovery by its figures."""
        return self.records.candidates()

    def short_candidates(self) -> list[Candidate]:
        """Return all evaluated candidates by the figures of their trial; one for each plan."""
        return self.records.trial_candidates()

    def finals(self) -> dict[int, Outcome]:
        """Return trial number -> outcome of its full recovery."""
        return self.records.finals()

    def counts(self) -> Counts:
        """Return how many trials were completed, rejected or outraced before training, and failed."""
        return self.records.counts()

    def agreements(self) -> list[Agreement]:
        """Return how each two neighbouring rungs agreed on the plans that were seen at both."""
        seen = self.records.climbs()
        steps = zip(self.ladder[:-1], self.ladder[1:], strict=True)
        return [agreement(lower, higher, climb_pairs(seen, lower, higher, self.bounds)) for lower, higher in steps]

    def seconds(self, closing: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        """Return the seconds of work by what they went to: each stage, latencies measured again, set-up, and what is left over.

        "recover" is training, "setup" what the set-up took but for its own stages, "other" what no stage accounts for: proposing, the
        journal, reports, what a killed process had under way. With several workers the stages overlap, and add up to more than the time
        that passed. `closing` are the stages after the last finalist.
        """
        spent = {"setup": self.setup_s - sum(self.setup_stages_s.values())}
        for stages_s in (self.setup_stages_s, closing):
            for name, duration_s in stages_s.items():
                spent[name] = spent.get(name, 0.0) + duration_s
        for outcome in [*(c.outcome for c in self.short_candidates()), *self.finals().values()]:
            for name, duration_s in outcome.stages_s.items():
                spent[name] = spent.get(name, 0.0) + duration_s
        again = self.records.latencies().values()
        spent["latency"] = spent.get("latency", 0.0) + sum(latency.duration_s for latencies in again for latency in latencies[1:])
        return spent | {"other": max(self.times.elapsed_s - sum(spent.values()), 0.0)}

    def stall(self) -> Stall | None:
        """Return why the trials ended early, or None if they did not."""
        stored = self.records.attributes.get(_STALL)
        return None if stored is None else Stall(**stored)

    def _stop(self) -> None:
        self._stopping = True
        self.cancel()

    def _give_back(self) -> None:
        """Have the trials in flight evaluated by others."""
        for number, trial in list(self._under_way.items()):
            if trial is not None:
                retry_once(self.study, trial)
                self.study.tell(number, state=TrialState.FAIL)
            elif self.claims is not None:
                self.claims.release(number)

    def _queue(self, seeds: Sequence[Plan]) -> None:
        if self.claims is not None:
            self.times.begin()
        left = [] if self.claims is not None else self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            # a process that died left it; its parameters are tried once more under a new number
            retry_once(self.study, trial)
            self.study.tell(trial.number, state=TrialState.FAIL)
        if not self.records.attributes.get(_SEEDED, False):
            for plan in seeds:
                self.study.enqueue_trial(dict(self.space.params(plan)), skip_if_exists=True)
            self.records.add_attribute(_SEEDED, True)

    def _trials(self) -> None:
        while (trial := self._ask()) is not None:
            with heartbeat(self.study, trial):
                self._trial(trial)
            del self._under_way[trial.number]  # not in a `finally`: what a process that is told to leave was at is given back
            self._repeat_a_latency(_OCCASIONS)
            self.times.note()

    def _ask(self) -> Trial | None:
        """Return the next trial, or None when the trials are over."""
        with self._lock:
            if self.claims is not None and time.monotonic() >= self._next_look_s:
                self._next_look_s = time.monotonic() + self.claims.grace_s / WORDS
                fail_stale(self.study, self.claims)
            self.records.refresh()
            rest = 0.0 if self._stopping or self.times.in_finalists else self._rest_trials()
            if rest < 1.0 or self._has_stalled(rest):
                return None
            started = self.clock()
            trial = self.study.ask(fixed_distributions=self.space.distributions())
            if self._was_taken(trial):
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            self._under_way[trial.number] = trial
            self._event("asked", trial=trial.number, seconds=self.clock() - started)
            return trial

    def _was_taken(self, trial: Trial) -> bool:
        """Return whether other processes asked for the last trials at the same moment; of those the lowest numbers are evaluated."""
        if self.claims is None or self.limits.trials is None or trial.number < self.limits.trials:
            return False
        self.records.refresh()
        return self.times.rest_trials(self.records.durations(), self.records.running(below=trial.number)) < 1.0

    def _rest_trials(self) -> float:
        under_way = len(self._under_way) if self.claims is None else self.records.running()
        return self.times.rest_trials(self.records.durations(), under_way)

    def _has_stalled(self, rest: float) -> bool:
        """Return whether to end the trials early; the reason is kept and told."""
        if not self.limits.stop_early or math.isinf(rest):
            return False
        if self.stall() is not None:
            return True
        stall = stalled(self.records.volumes(), int(rest * self.workers))
        if stall is None:
            return False
        self.records.add_attribute(_STALL, asdict(stall))
        self.on_change(stall.describe())
        self._event(STOPPED_EARLY, reason=stall.describe())
        return True

    def _trial(self, trial: Trial) -> None:
        started = self.clock()
        plan = self.space.plan(trial.params)
        trial.set_user_attr(keys.PLAN, plan.to_json())
        if self.claims is not None:
            trial.set_user_attr(keys.WORKER, self.claims.worker)
        climber = Climber(self.evaluate, self.ladder, self.bounds, self.records.climbs())
        try:
            outcome, accuracies = self._copied(trial, plan) or climber.climb(plan, trial.number)
        except TargetLostError:  # says nothing of the plan: the trial is left running, as by a process that died, and resume tries it again
            raise
        except Exception as error:  # one trial's failure, whatever it is, is recorded with its reason and costs that trial alone
            if not self._stopping:  # else it was cut off with the run, and is left as by a process that died
                with self._lock:
                    self._record_failure(trial, error, started)
            return
        with self._lock:
            self._record(trial, Candidate(trial.number, plan, outcome), accuracies, climber, started)

    def _record(self, trial: Trial, candidate: Candidate, accuracies: Mapping[Rung, float], climber: Climber, started: float) -> None:
        outcome, before = candidate.outcome, self.short_candidates()
        trial.set_user_attr(keys.OUTCOME, outcome.to_json())
        trial.set_user_attr(keys.ACCURACIES, {str(int(rung)): accuracy for rung, accuracy in accuracies.items()})
        trial.set_user_attr(keys.REJECTED, bool(outcome.rejected))
        if outcome.rejected and self.bounds.within_costs(outcome):
            trial.set_user_attr(keys.OUTRACED, True)
            trial.set_user_attr(PREDICTED_ACCURACY, climber.predicted_accuracy(outcome))
        trial.set_user_attr(keys.VOLUME, self.bounds.hypervolume([*before, candidate]))
        for name, violation in self.bounds.constraints(outcome).items():
            trial.set_constraint(name, violation)
        duration_s = self.clock() - started
        trial.set_user_attr(keys.DURATION, duration_s)
        self.records.add_ended(self.study.tell(trial, [_told(accuracies), outcome.macs, outcome.latency.latency_ms]))
        self.on_change(f"trial {trial.number}: {outcome.rejected or describe(outcome, self.bounds)}")
        self._event(TRIAL, trial=trial.number, seconds=duration_s, **told_of(outcome))

    def _copied(self, trial: Trial, plan: Plan) -> tuple[Outcome, Mapping[Rung, float]] | None:
        """Return what is known of the plan: different parameters mean the same one where a branch is removed."""
        known = self.records.copy_of(plan)
        if known is None:
            return None
        candidate, climb = known
        trial.set_user_attr(keys.COPY_OF, candidate.number)
        return candidate.outcome, climb.accuracies

    def _record_failure(self, trial: Trial, error: Exception, started: float) -> None:
        reason = typed_line(error)
        cut_off = isinstance(error, OutOfTimeError)
        again = isinstance(error, WorkerDiedError) and retry_once(self.study, trial)
        if not cut_off and not again:
            trial.set_user_attr(keys.ERROR, reason)
            trial.set_user_attr(keys.DURATION, self.clock() - started)
        self.study.tell(trial, state=TrialState.FAIL)
        self.records.refresh()
        self.on_change(f"trial {trial.number}: {'tried once more' if again else 'failed'}, {reason}")
        self._event("retried" if again else "failed", trial=trial.number, seconds=self.clock() - started, reason=reason)
        failures = self.records.failure_reasons()
        if len(failures) >= _SAME_FAILURES and len(set(failures)) == 1 and self.counts().completed == 0:
            raise SearchFailedError(
                f"the first {len(failures)} trials all failed for the same reason: {reason}",
                "Nothing in the search space gets round it; mend the cause, then `paretopress resume`.",
            ) from error

    def _repeat_a_latency(self, occasions: int, *, final: bool = False) -> bool:
        """Measure the file again that was seen on the fewest occasions; return whether that was done."""
        taken = None if self.measure_again is None or self._stopping else self._repeats.take(occasions, final=final)
        if taken is None or self.measure_again is None:
            return False
        again = self._repeats.measure(taken, self.measure_again)
        if isinstance(again, str):
            self.on_change(f"trial {taken.number}: its latency was not measured again, {again}")
            return False
        self._event("latency again", trial=taken.number, seconds=again.duration_s, latency_ms=again.latency_ms)
        return True

    def _last_occasions(self) -> None:
        while self._repeat_a_latency(_FINAL_OCCASIONS, final=True):
            pass

    def _finalists(self) -> None:
        while (taken := self._take_finalist()) is not None:
            finalist, share = taken
            self._recover(finalist, share)
            del self._under_way[finalist.number]
            self.times.note()
            self._repeat_a_latency(_OCCASIONS)

    def _take_finalist(self) -> tuple[Candidate, float] | None:
        """Return the next candidate to recover in full, and the share of its recovery that there is time for; None when that is over."""
        with self._lock:
            self.times.closing_s = self.closing_s(front(self.candidates(), self.bounds))
            left_s = self.times.left_for_finalists_s(stalled=self.stall() is not None)
            share = min(left_s / self._slowest_final_s, 1.0) if self._slowest_final_s else 1.0
            if self._stopping or left_s <= 0.0 or share < (1.0 if self.recover_in_part is None else _LEAST_SHARE):
                return None
            finalist = self._next_finalist()
            if finalist is None:
                return None
            self._under_way[finalist.number] = None
            return finalist, share

    def _recover(self, finalist: Candidate, share: float) -> None:
        started = self.clock()
        try:
            outcome = self._recovered(finalist, share)
            stored, line, told = outcome.to_json(), describe(outcome, self.bounds), told_of(outcome)
            self._slowest_final_s = max(self._slowest_final_s, (self.clock() - started) / share)
        except TargetLostError:
            raise
        except Exception as error:  # as for a trial: recorded with its reason, and the others go on
            if self._stopping:
                return
            stored = told = {keys.ERROR: typed_line(error)}
            line = f"failed, {stored[keys.ERROR]}"
        self.records.add_final(finalist.number, stored)
        if self.claims is not None:
            self.claims.release(finalist.number)
        self.on_change(f"finalist {finalist.number}: {line}")
        self._event("finalist", trial=finalist.number, share=share, seconds=self.clock() - started, **told)

    def _recovered(self, finalist: Candidate, share: float) -> Outcome:
        def recovered() -> Outcome:
            if share < 1.0 and self.recover_in_part is not None:
                return self.recover_in_part(finalist.plan, finalist.number, share)
            return self.evaluate(finalist.plan, Rung.FINAL, finalist.number)

        try:
            return recovered()
        except WorkerDiedError as error:
            if self._stopping:
                raise
            self.on_change(f"finalist {finalist.number}: tried once more, {error}")
            return recovered()

    def _next_finalist(self) -> Candidate | None:
        others = self.claims.others() if self.claims is not None else set()  # before the records: who is done records, then releases
        self.records.refresh()
        tried = self.records.finals_tried() | set(self._under_way) | others
        if len(tried) >= self.limits.finalists and (self.limits.seconds is None or not tried):
            return None  # where time bounds the run, what is left of it goes to further finalists
        finals = self.finals()
        pool = [c for c in self.short_candidates() if c.number in finals or c.number not in tried]
        finalist = next_finalist(pool, finals, self.bounds, self.val_images)
        if finalist is None or self.claims is None:
            return finalist
        if self.claims.take(finalist.number):
            self.records.refresh()
            if finalist.number not in self.records.finals_tried():
                return finalist
            self.claims.release(finalist.number)  # another was done with it meanwhile
        return self._next_finalist()

    def _event(self, event: str, **fields: Any) -> None:
        self.on_event(event, fields)


def _told(accuracies: Mapping[Rung, float]) -> float:
    """Return the accuracy that the sampler learns: that of the first rung that trains, which most plans reach, or the untrained."""
    return next((accuracies[rung] for rung in sorted(accuracies) if rung > Rung.COSTS), accuracies.get(Rung.COSTS, 0.0))


def told_of(outcome: Outcome) -> dict[str, Any]:
    """Return what an event says of an outcome."""
    return {
        "rung": int(outcome.rung),
        "val_accuracy": outcome.val_accuracy,
        "macs": outcome.macs,
        "latency_ms": outcome.latency.latency_ms,
        "rejected": outcome.rejected,
        "stages_s": dict(outcome.stages_s),
    }


def describe(outcome: Outcome, bounds: Bounds) -> str:
    """Return "98.1 % at 0.210 ms (2.4x)"."""
    latency = outcome.latency.latency_ms
    return f"{bounds.metric.shown(outcome.val_accuracy)} at {latency:.3f} ms ({bounds.baseline_ms / latency:.2f}x)"
