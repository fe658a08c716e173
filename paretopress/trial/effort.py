"""How much a candidate is trained at each rung."""

from __future__ import annotations

from dataclasses import dataclass

from paretopress.core.outcome import Rung
from paretopress.search.candidates import RUNGS


@dataclass(frozen=True, slots=True)
class Effort:
    """Training steps by rung, each on top of the rung below, and threads for scoring accuracy."""

    short_steps: int
    long_steps: int
    final_steps: int
    scoring_threads: int

    def steps(self, rung: Rung) -> int:
        """Return the training steps of a rung."""
        return {Rung.COSTS: 0, Rung.SHORT: self.short_steps, Rung.LONG: self.long_steps, Rung.FINAL: self.final_steps}[rung]

    def ladder(self) -> tuple[Rung, ...]:
        """Return the rungs of a trial; where there are no steps for a longer recovery, its rung is left out."""
        return tuple(rung for rung in RUNGS if rung is not Rung.LONG or self.long_steps)
