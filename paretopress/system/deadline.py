"""Deadlines of a monotonic clock, handed down to the work that must keep them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of a monotonic clock, in seconds; infinite where there is none. What runs asks `left_s`; nothing is interrupted."""

    at_s: float = math.inf
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the deadline so many seconds from now."""
        return cls(clock() + seconds, clock)

    @property
    def left_s(self) -> float:
        """Seconds that are left, below 0 once it has passed."""
        return self.at_s - self.clock()

    @property
    def finite(self) -> bool:
        """Whether there is a deadline."""
        return math.isfinite(self.at_s)

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_s <= 0.0

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline with so many seconds kept for what comes after the work."""
        return Deadline(self.at_s - seconds, self.clock)

    def share(self, share: float) -> Deadline:
        """Return the deadline of work that may take a share of the time that is left."""
        return Deadline(self.clock() + share * max(self.left_s, 0.0), self.clock) if self.finite else self


NO_DEADLINE = Deadline()
