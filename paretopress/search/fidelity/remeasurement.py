"""Remeasurement: repeat latencies over the run, so that the front does not depend on one state of the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Protocol

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.errors import ParetopressError, TargetLostError, typed_line
from paretopress.search.candidates import Bounds, Candidate, front, promising_front, undominated

# a point of the front is measured again once after every trial, in turn; each final one on at least so many occasions
OCCASIONS, FINAL_OCCASIONS = 6, 3
# where the time allows, one whose interval still holds the bound is measured until that is decided, but not more often than this: its
# interval has a seventh of the width of one occasion's by then
MOST_OCCASIONS = 50
# a file that could not be measured so many times is left alone by this process: it may be gone for good, and the others wait for their turn
_MOST_FAILURES = 3


class LatencyRecords(Protocol):
    """The part of a study's records that remeasurement reads and writes."""

    def candidates(self) -> list[Candidate]:
        """Return all evaluated candidates with latencies pooled over all occasions."""
        ...

    def add_latency(self, outcome: Outcome, again: Latency) -> None:
        """Keep one more latency of a candidate's file."""
        ...


@dataclass(slots=True)
class Remeasurement:
    """Chooses files to measure again and records their latencies; several workers may ask at a time, and get different files."""

    records: LatencyRecords
    bounds: Bounds
    lock: RLock
    _under_way: set[str] = field(init=False, default_factory=set)
    _failures: Counter[str] = field(init=False, default_factory=Counter)

    def take(self, occasions: int, *, final: bool) -> Candidate | None:
        """Return the candidate, on a front or astride the budget, whose file was seen on the fewest occasions.

        While every candidate loses more than is allowed at its rung: one of the best of those that may meet the other bounds, for the
        finalists come from them. None if all were seen on so many occasions, or failed too often. `final` looks at full recoveries
        alone. What is taken must be measured.
        """
        candidates = [c for c in self.records.candidates() if not final or c.outcome.rung is Rung.FINAL]
        unsure = [c for c in candidates if self.bounds.undecided(c.outcome)]
        wanted = [*front(candidates, self.bounds), *promising_front(candidates, self.bounds), *unsure]
        return self._fewest(wanted or undominated([c for c in candidates if self.bounds.may_meet_costs(c.outcome)]), occasions)

    def take_undecided(self) -> Candidate | None:
        """Return the candidate that would be within every bound of the user's but for an interval that holds the one on latency.

        None if there is none that no feasible candidate dominates, or all were seen on `MOST_OCCASIONS`. What is taken must be measured.
        """
        candidates = self.records.candidates()
        open_ones = [c for c in candidates if self._waits_for_latency(c)]
        rivals = undominated([*open_ones, *front(candidates, self.bounds)])
        return self._fewest([c for c in rivals if c in open_ones], MOST_OCCASIONS)

    def _waits_for_latency(self, candidate: Candidate) -> bool:
        missed = [miss.bound for miss in self.bounds.misses(candidate.outcome)]
        return missed == ["latency_ms"] and self.bounds.undecided(candidate.outcome)

    def _fewest(self, pool: Sequence[Candidate], occasions: int) -> Candidate | None:
        with self.lock:
            free = [c for c in pool if c.outcome.latency.occasions < occasions and c.outcome.onnx_sha256 not in self._under_way]
            free = [c for c in free if self._failed(c) < _MOST_FAILURES]
            taken = min(free, key=lambda c: (self._failed(c), c.outcome.latency.occasions), default=None)
            if taken is not None:
                self._under_way.add(taken.outcome.onnx_sha256)
            return taken

    def measure(self, taken: Candidate, measure_again: Callable[[Outcome], Latency]) -> Latency | str:
        """Keep and return one more latency of what was taken, or return why it could not be measured: that costs the occasion alone.

        Raises: TargetLostError: nothing can be measured.
        """
        try:
            again = measure_again(taken.outcome)
        except TargetLostError:
            raise
        except Exception as error:  # whatever it is: its file is gone, the store is busy, the session failed
            self._failures[taken.outcome.onnx_sha256] += 1
            return str(error) if isinstance(error, ParetopressError) else typed_line(error)
        finally:
            self._under_way.discard(taken.outcome.onnx_sha256)
        self.records.add_latency(taken.outcome, again)
        return again

    def _failed(self, candidate: Candidate) -> int:
        return self._failures[candidate.outcome.onnx_sha256]
