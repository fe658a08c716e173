"""The finalist phase: fine-tune finalists in full, one after another while time is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError, TargetLostError, WorkerDiedError, typed_line
from paretopress.search.candidates import Candidate, front
from paretopress.search.fidelity.finalists import next_finalist
from paretopress.search.fidelity.ladder import Evaluate
from paretopress.search.fidelity.remeasurement import FINAL_OCCASIONS, OCCASIONS
from paretopress.search.storage import records as keys
from paretopress.search.study.context import SearchContext
from paretopress.search.study.event_format import describe, event_fields
from paretopress.search.study.nearest import nearest_points

# a finalist may get less than its full recovery where the time ends, but not less than this share of it
_LEAST_SHARE = 0.3
# a finalist and one that is trained twice as long
_AND_THE_NEXT = 3.0
# files measured again after each finalist: a few seconds beside the half minute and more that it takes, and occasions apart in time
_REPEATED_AFTER_EACH = 3


@dataclass(slots=True)
class FinalistPhase:
    """The finalists that one process fine-tunes; the fields are those of `Search`."""

    session: SearchContext
    evaluate: Evaluate
    recover_in_part: Callable[[Plan, int, float], Outcome] | None
    val_images: int
    closing_s: Callable[[Sequence[Candidate]], float]
    ending_s: Callable[[Sequence[Candidate]], float] = lambda _: 0.0
    _lately_s: float = field(init=False, default=0.0)
    _out_of_time: bool = field(init=False, default=False)

    def work(self) -> None:
        """Fine-tune finalists until none or no time is left; each thread runs this loop."""
        session = self.session
        while (taken := self._take()) is not None:
            finalist, share = taken
            self._recover(finalist, share)
            del session.under_way[finalist.number]
            session.times.note()
            for _ in range(_REPEATED_AFTER_EACH):
                session.repeat_a_latency(OCCASIONS)

    def repeat_latencies(self) -> None:
        """Measure the final files again until each was seen on occasions enough, then those astride the budget until that is decided, and
        with what is left of a run's time the final ones once more; all as far as the time lasts.
        """
        session, candidates = self.session, self.session.records.candidates()
        session.times.closing_s = self.ending_s(front(candidates, session.bounds) or nearest_points(candidates, session.bounds))
        measures: list[Callable[[], bool]] = [partial(session.repeat_a_latency, FINAL_OCCASIONS, final=True), session.decide_a_latency]
        if session.limits.seconds is not None:
            measures.append(partial(session.repeat_a_latency, OCCASIONS, final=True))
        for measure in measures:
            longest_s = 0.0
            while session.times.left_s > longest_s and not session.over():
                started = session.clock()
                if not measure():
                    break
                longest_s = max(longest_s, session.clock() - started)

    def _take(self) -> tuple[Candidate, float] | None:
        """Return the next finalist and how many times its planned steps it is trained for; None when the phase is over."""
        session = self.session
        with session.lock:
            candidates = session.records.candidates()
            session.times.closing_s = self.closing_s(front(candidates, session.bounds) or nearest_points(candidates, session.bounds))
            left_s = session.times.left_s
            share = self._share(left_s / self._lately_s) if self._lately_s else 1.0
            if session.over() or self._out_of_time or left_s <= 0.0 or share < (1.0 if self.recover_in_part is None else _LEAST_SHARE):
                return None
            finalist = self._next()
            if finalist is None:
                return None
            session.under_way[finalist.number] = None
            return finalist, share

    def _share(self, left: float) -> float:
        """Return how many times its planned steps the next finalist is trained for, where there is time for `left` times.

        Once, or what is left. While none is within the bound on the drop, each is trained twice as long as the one before, and one after
        which no longer one would fit takes all that is left: eight finalists that each miss the bound by a little are worth less than
        one that had the time of five.
        """
        session = self.session
        if self.recover_in_part is None or not session.limits.longer_finalists or session.bounds.budget.max_drop is None:
            return min(left, 1.0)
        missed = [o for o in session.records.finals().values() if session.bounds.drop(o) > session.bounds.budget.max_drop]
        if not missed or session.within_all_bounds():
            return min(left, 1.0)
        wanted = 2.0 ** len(missed)
        return wanted if left >= _AND_THE_NEXT * wanted else left

    def _next(self) -> Candidate | None:
        session, leases = self.session, self.session.leases
        # read before the records: a process records its result, then releases the lease
        others = leases.others() if leases is not None else set()
        session.records.refresh()
        tried = session.records.finals_tried() | set(session.under_way) | others
        if len(tried) >= session.limits.finalists and (session.limits.seconds is None or not tried):
            return None  # where time bounds the run, what is left of it goes to further finalists
        finals = session.records.finals()
        pool = [c for c in session.records.trial_candidates() if c.number in finals or c.number not in tried]
        finalist = next_finalist(pool, finals, session.bounds, self.val_images)
        if finalist is None or leases is None:
            return finalist
        if leases.take(finalist.number):
            session.records.refresh()
            if finalist.number not in session.records.finals_tried():
                return finalist
            leases.release(finalist.number)  # another was done with it meanwhile
        return self._next()

    def _recover(self, finalist: Candidate, share: float) -> None:
        session = self.session
        started = session.clock()
        stored: dict[str, Any]
        try:
            outcome = self._recovered(finalist, share)
            stored, told, line = outcome.to_json(), event_fields(outcome), describe(outcome, session.bounds)
            self._lately_s = (session.clock() - started) / share  # the last one's: a busy hour is no measure of the next
        except TargetLostError:
            raise
        except OutOfTimeError as error:  # no fault of the candidate
            self._out_of_time = True
            session.on_change(f"finalist {finalist.number}: not recovered in full, {error}")
            if session.leases is not None:
                session.leases.release(finalist.number)
            return
        except Exception as error:  # as for a trial: recorded with its reason, and the others go on
            if session.stopping:
                return
            stored = told = {keys.ERROR: typed_line(error)}
            line = f"failed, {stored[keys.ERROR]}"
        session.records.add_final(finalist.number, stored)
        if session.leases is not None:
            session.leases.release(finalist.number)
        session.on_change(f"finalist {finalist.number}: {line}")
        session.event("finalist", trial=finalist.number, share=share, seconds=session.clock() - started, **told)

    def _recovered(self, finalist: Candidate, share: float) -> Outcome:
        def recovered() -> Outcome:
            if share != 1.0 and self.recover_in_part is not None:
                return self.recover_in_part(finalist.plan, finalist.number, share)
            return self.evaluate(finalist.plan, Rung.FINAL, finalist.number)

        try:
            return recovered()
        except WorkerDiedError as error:
            if self.session.stopping:
                raise
            self.session.on_change(f"finalist {finalist.number}: tried once more, {error}")
            return recovered()
