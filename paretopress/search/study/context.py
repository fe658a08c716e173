"""State that the threads of one process share while they work on a study."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from paretopress.core.outcome import Latency, Outcome
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.fidelity.remeasurement import Remeasurement
from paretopress.search.limits import Limits
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.records import Records, retry_once
from paretopress.search.study.time_budget import TimeBudget


@dataclass(slots=True)
class SearchContext:
    """State of one process that works on a study; its threads change it under `lock`.

    Attributes:
        under_way: number -> the trial that is being evaluated, or None where it is the full recovery of that trial.
        stopping: the run is being cut off: loops end soon, and an evaluation that fails from now on is not recorded as failed.
        stopped: `should_stop` returned true: evaluations under way are completed, and nothing new begins.
    The other fields are those of `Search`.
    """

    records: Records
    times: TimeBudget
    limits: Limits
    bounds: Bounds
    leases: Leases | None
    measure_again: Callable[[Outcome], Latency] | None
    on_change: Callable[[str], None]
    on_event: Callable[[str, Mapping[str, Any]], None]
    clock: Callable[[], float]
    should_stop: Callable[[], bool] = lambda: False
    lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    under_way: dict[int, Trial | None] = field(init=False, default_factory=dict)
    stopping: bool = field(init=False, default=False)
    stopped: bool = field(init=False, default=False)
    _repeats: Remeasurement = field(init=False)

    def __post_init__(self) -> None:
        self._repeats = Remeasurement(self.records, self.bounds, self.lock)

    @property
    def study(self) -> optuna.Study:
        """The study that is worked on."""
        return self.records.study

    def over(self) -> bool:
        """Return whether nothing new may begin: the run is being cut off, or the user's callback has asked for its end."""
        self.stopped = self.stopped or self.should_stop()
        return self.stopping or self.stopped

    def event(self, name: str, **fields: Any) -> None:
        """Report an event to `on_event`."""
        self.on_event(name, fields)

    def within_all_bounds(self) -> bool:
        """Return whether a candidate is within every bound of the user's."""
        return any(self.bounds.feasible(c.outcome) for c in self.records.candidates())

    def repeat_a_latency(self, occasions: int, *, final: bool = False) -> bool:
        """Measure the file again that was seen on the fewest occasions, if on fewer than that; return whether there was one."""
        return self._repeat(lambda: self._repeats.take(occasions, final=final))

    def decide_a_latency(self) -> bool:
        """Measure a file again whose interval holds the bound, where that alone keeps it off the front; return whether there was one."""
        return self._repeat(self._repeats.take_undecided)

    def _repeat(self, take: Callable[[], Candidate | None]) -> bool:
        taken = None if self.measure_again is None or self.stopping else take()
        if taken is None or self.measure_again is None:
            return False
        again = self._repeats.measure(taken, self.measure_again)
        if isinstance(again, str):
            self.on_change(f"trial {taken.number}: its latency was not measured again, {again}")
            self.event("latency not again", trial=taken.number, reason=again)
        else:
            self.event("latency again", trial=taken.number, seconds=again.duration_s, latency_ms=again.latency_ms)
        return True

    def give_back(self) -> None:
        """Return the trials and finalists under way to other processes, if the study is shared."""
        if self.leases is None:
            return
        for number, trial in list(self.under_way.items()):
            if trial is None:
                self.leases.release(number)
            else:
                retry_once(self.study, trial)
                self.study.tell(number, state=TrialState.FAIL)
