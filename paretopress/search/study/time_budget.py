"""The time budget of a run: seconds spent by all its processes, and seconds left for trials and finalists."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paretopress.search.limits import Limits
from paretopress.search.storage.records import Records

# where the set-up took the trials' share of a short run, so many plans are tried all the same
_FEWEST_TRIALS = 5
_LATELY = 8
_ELAPSED, _BEGAN, _FINALISTS_FROM, _TRIALS_UNTIL = "elapsed_s", "began_at", "finalists_from_s", "trials_until_s"


@dataclass(slots=True)
class TimeBudget:
    """The time of one study; all figures are seconds of work.

    `setup_s` passed before the first trial; `closing_s` are kept for what follows the last finalist. `clock` returns seconds. Where
    several processes work on the study, `shared`, time passes for all of them from the moment that one began: the clock is the wall's.
    `satisfied` returns whether a candidate is within every bound: without one all of the time is used.
    """

    records: Records
    limits: Limits
    setup_s: float = 0.0
    closing_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    shared: bool = False
    satisfied: Callable[[], bool] = lambda: True
    _started: float = field(init=False)
    _before: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._before = float(self.records.attributes.get(_ELAPSED, self.setup_s))

    @property
    def elapsed_s(self) -> float:
        """Seconds of work on this study so far."""
        if self.shared:
            return self.clock() - float(self.records.attributes.get(_BEGAN, self._started - self.setup_s))
        return self._before + self.clock() - self._started

    @property
    def in_finalists(self) -> bool:
        """Whether the trials are over and finalists are being recovered."""
        return self.records.attributes.get(_FINALISTS_FROM) is not None

    @property
    def phase_s(self) -> float:
        """Seconds of work since the phase began: the trials, or the finalists."""
        began = self.records.attributes.get(_FINALISTS_FROM)
        return self.elapsed_s - float(self.setup_s if began is None else began)

    @property
    def end_s(self) -> float:
        """The elapsed seconds at which the run ends; infinite where only the number of trials bounds it.

        Where the trials ended early, finalists get the share that they would have had, and the run ends that much sooner; not while no
        candidate is within every bound.
        """
        if self.limits.seconds is None:
            return math.inf
        if not self.in_finalists or self.records.early_stop() is None or not self.satisfied():
            return self.limits.seconds
        return min(float(self.records.attributes[_FINALISTS_FROM]) + self.limits.finalist_share * self.limits.seconds, self.limits.seconds)

    @property
    def left_s(self) -> float:
        """Seconds until the run has to close; infinite where only the number of trials bounds it."""
        return self.end_s - self.closing_s - self.elapsed_s

    def resume_at(self, worked_s: float) -> None:
        """Go on after `worked_s` seconds of work, if that is more than was written down: a killed process has lost its last trial."""
        if not self.shared and worked_s > self.elapsed_s:
            self._before, self._started = worked_s, self.clock()

    def begin(self) -> None:
        """Let the time of a shared study pass from now on, after what passed before."""
        self.records.add_attribute(_BEGAN, self.clock() - self._before)

    def note(self) -> None:
        """Store the elapsed time, for the process that resumes the run."""
        self.records.add_attribute(_ELAPSED, self.elapsed_s)

    def start_finalists(self) -> None:
        """Begin the finalist phase."""
        self.note()
        if not self.in_finalists:
            self.records.add_attribute(_FINALISTS_FROM, self.elapsed_s)

    def back_to_trials(self) -> None:
        """Have trials follow again, though finalists were begun: for their share of the time that is left."""
        if self.in_finalists:
            self.records.add_attribute(_FINALISTS_FROM, None)
        if self.limits.seconds is not None:
            left_s = max(self.limits.seconds - self.elapsed_s, 0.0)
            self.records.add_attribute(_TRIALS_UNTIL, self.elapsed_s + (1.0 - self.limits.finalist_share) * left_s)

    @property
    def trials_until_s(self) -> float:
        """The elapsed seconds at which trials end and finalists begin; infinite where only the number of trials bounds the run."""
        if self.limits.seconds is None:
            return math.inf
        return float(self.records.attributes.get(_TRIALS_UNTIL) or self.limits.seconds * (1.0 - self.limits.finalist_share))

    def rest_trials(self, durations: Sequence[float | None], under_way: int = 0) -> float:
        """Return how many more trials the limits allow, infinite if nothing is known yet.

        Args:
            durations: of the trials that count, see `Records.durations`. under_way: trials that are being evaluated.
        """
        rest = math.inf if self.limits.trials is None else float(self.limits.trials - len(durations) - under_way)
        if self.limits.seconds is None:
            return rest
        few = len(durations) < _FEWEST_TRIALS
        left_s = self.left_s if few else self.trials_until_s - self.elapsed_s
        known = [duration for duration in durations if duration is not None]
        # what the last ones took counts where it is more: others may have come to the machine since the first
        expected_s = max(_third_quartile(known), _third_quartile(known[-_LATELY:]))
        if few:  # nothing follows that could make up for one that takes too long
            expected_s = max(known, default=0.0)
        return min(rest, left_s / expected_s if expected_s else math.inf if left_s > 0.0 else 0.0)


def _third_quartile(durations: Sequence[float]) -> float:
    """Return the seconds within which three in four trials end, 0 where none is known."""
    return sorted(durations)[int(0.75 * (len(durations) - 1))] if durations else 0.0
