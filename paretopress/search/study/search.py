"""Run a study: trials, then finalists; every result is in the journal before the next step begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import TrialState

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import RUNGS, Bounds, Candidate
from paretopress.search.early_stopping import EarlyStop
from paretopress.search.fidelity.ladder import Evaluate, score_pairs
from paretopress.search.fidelity.promotion import Agreement, agreement
from paretopress.search.limits import Limits
from paretopress.search.storage.heartbeat import fail_stale
from paretopress.search.storage.leases import Leases, renewed
from paretopress.search.storage.records import EARLY_STOP, Counts, Records, retry_once
from paretopress.search.study.context import SearchContext
from paretopress.search.study.finalist_phase import FinalistPhase
from paretopress.search.study.fresh_plans import USED_UP
from paretopress.search.study.thread_pool import thread_pool
from paretopress.search.study.time_accounting import seconds_by_stage
from paretopress.search.study.time_budget import TimeBudget
from paretopress.search.study.trial_phase import TrialPhase, retry_is_due
from paretopress.spaces.space import SearchSpace

_LOOKS_EVERY_S = 1.0
# the share of the time of a run for which trials and finalists are worth another round
_ROUND_SHARE = 0.1
_SEEDED = "seeded"


@dataclass(slots=True)
class Search:
    """One search over one study.

    Attributes:
        ladder: the rungs that a trial may climb. workers: trials that are evaluated at a time.
        measure_again: repeats the latency of a candidate's file.
        recover_in_part: full recovery of (plan, trial, so many times its steps); without it a recovery is whole or does not take place.
        leases: set where other processes work on the study too.
        on_change: called after every trial with a line about it. on_event: called with an event's name and its fields.
        cancel: ends evaluations that are under way, where the search ends in the middle of them.
        should_stop: asked before each trial, finalist and repeated latency; once it returns true the search ends in order.
        closing_s, ending_s: points of the front -> seconds kept for what follows the last finalist, or the last repeated latency.
        setup_s, clock: see `TimeBudget`. stopped: whether `should_stop` ended the search.
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
    leases: Leases | None = None
    on_change: Callable[[str], None] = lambda _: None
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _, __: None
    cancel: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    setup_s: float = 0.0
    setup_stages_s: Mapping[str, float] = field(default_factory=dict)
    closing_s: Callable[[Sequence[Candidate]], float] = lambda _: 0.0
    ending_s: Callable[[Sequence[Candidate]], float] = lambda _: 0.0
    records: Records = field(init=False)
    times: TimeBudget = field(init=False)
    stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.records = Records(self.study)
        shared = self.leases is not None
        clock = time.time if shared and self.clock is time.monotonic else self.clock
        self.times = TimeBudget(self.records, self.limits, self.setup_s, self.closing_s(()), clock, shared)

    def run(self, seeds: Sequence[Plan]) -> None:
        """Search, then recover the finalists in full.

        Raises: SearchFailedError: the first trials all failed for one reason. TargetLostError: nothing can be measured; all but the trials
            in flight is kept.
        """
        self._queue(seeds)
        self.work()
        if self.leases is not None and not self.stopped:
            self._wait_for_others(self.leases)
        self.records.refresh()

    def work(self) -> None:
        """Evaluate trials, then finalists, until there are no more: what every process does that works on a shared study.

        Raises: as `run`. Where this process is asked to leave, its trials are given back to the others.
        """
        session = SearchContext(
            records=self.records,
            times=self.times,
            limits=self.limits,
            bounds=self.bounds,
            leases=self.leases,
            measure_again=self.measure_again,
            on_change=self.on_change,
            on_event=self.on_event,
            clock=self.clock,
            should_stop=self.should_stop,
        )
        trials = TrialPhase(session, self.space, self.evaluate, self.ladder, self.workers)
        finalists = FinalistPhase(session, self.evaluate, self.recover_in_part, self.val_images, self.closing_s, self.ending_s)
        self.times.satisfied = session.within_all_bounds

        def stop() -> None:
            session.stopping = True
            self.cancel()

        try:
            with renewed(self.leases), thread_pool(self.workers, stop) as together:
                together(trials.work)
                while not session.stopped:
                    self.times.start_finalists()
                    together(finalists.work)
                    if not self._continue_trials(session, lambda: together(trials.work)):
                        break
                if not session.stopped:  # else a resumed run goes on with trials
                    self.times.start_finalists()
                    together(finalists.repeat_latencies)
                self.stopped = session.stopped
        except BaseException:
            session.give_back()
            raise
        finally:
            if self.leases is not None:
                self.leases.leave()

    def extend(self) -> None:
        """Let trials go on after finalists: the limits were raised, and neither their phase nor an early stop counts any more."""
        self.times.back_to_trials()
        self.records.add_attribute(EARLY_STOP, None)

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

    def early_stop(self) -> EarlyStop | None:
        """Return why the trials ended early, or None if they did not."""
        return self.records.early_stop()

    def agreements(self) -> list[Agreement]:
        """Return how each two neighbouring rungs agreed on the plans that were seen at both."""
        seen = self.records.climbs()
        steps = zip(self.ladder[:-1], self.ladder[1:], strict=True)
        return [agreement(lower, higher, score_pairs(seen, lower, higher, self.bounds)) for lower, higher in steps]

    def seconds(self, closing: Mapping[str, float] = MappingProxyType({})) -> dict[str, float]:
        """Return the seconds of work by what they went to, see `seconds_by_stage`; "setup" is what the set-up took but for its stages.

        `closing` are the stages after the last finalist.
        """
        setup = {"setup": self.setup_s - sum(self.setup_stages_s.values())}
        return seconds_by_stage(self.records, self.times.elapsed_s, setup, self.setup_stages_s, closing)

    def _continue_trials(self, session: SearchContext, run_trials: Callable[[], None]) -> bool:
        """Go on with trials after the finalists if no candidate is within every bound and time is left; return whether any began."""
        if self.limits.seconds is None or self.limits.trials is not None or self.leases is not None or USED_UP in self.records.attributes:
            return False
        if session.over() or self.times.left_s <= _ROUND_SHARE * self.limits.seconds or session.within_all_bounds():
            return False
        tried = self.records.tried()
        self.times.back_to_trials()
        run_trials()
        return self.records.tried() > tried

    def _wait_for_others(self, leases: Leases) -> None:
        """Return when no other process is at work; what one that died meanwhile had under way is tried once more here."""
        until = leases.clock() + 2.0 * leases.grace_s
        while self.times.left_s > 0.0:
            at_work = leases.at_work()
            fail_stale(self.study, leases)
            self.records.refresh()
            if retry_is_due(self.records, self.times):
                self.work()
            elif at_work:  # they are at their last finalists, or measure them again
                until = leases.clock() + 2.0 * leases.grace_s
            elif not self.records.left_running() or leases.clock() >= until:
                return
            time.sleep(_LOOKS_EVERY_S)

    def _queue(self, seeds: Sequence[Plan]) -> None:
        if self.leases is not None:
            self.times.begin()
        left = [] if self.leases is not None else self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            # a process that died left it; its parameters are tried once more under a new number
            retry_once(self.study, trial)
            self.study.tell(trial.number, state=TrialState.FAIL)
        if not self.records.attributes.get(_SEEDED, False):
            for plan in seeds:
                self.study.enqueue_trial(dict(self.space.params(plan)), skip_if_exists=True)
            self.records.add_attribute(_SEEDED, True)
