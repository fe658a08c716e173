"""The candidates that miss the budget by least, for a run in which none meets it."""

from __future__ import annotations

from collections.abc import Sequence

from paretopress.search.candidates import Bounds, Candidate, undominated
from paretopress.search.study.event_format import describe

# how many are shown where no candidate meets the budget
_MOST_SHOWN = 5


def nearest_points(candidates: Sequence[Candidate], bounds: Bounds) -> list[Candidate]:
    """Return up to five recovered candidates that miss the budget by least, nearest first; none where a candidate is feasible.

    Distance is the sum, over the bounds that are missed, of the share by which each is. Candidates that another dominates are left out.
    """
    recovered = [c for c in candidates if not c.outcome.rejected]
    if any(bounds.feasible(c.outcome) for c in recovered):
        return []
    return sorted(undominated(recovered), key=lambda c: missed_share(c, bounds))[:_MOST_SHOWN]


def missed_share(candidate: Candidate, bounds: Bounds) -> float:
    """Return the sum of the shares by which a candidate misses its bounds, 0 where it misses none."""
    return sum(miss.share for miss in bounds.misses(candidate.outcome))


def miss_sentence(candidate: Candidate, bounds: Bounds) -> str:
    """Return "trial 41 (86.10 % at 0.523 ms, 2.40x): its latency interval reaches ..." of a candidate that misses a bound."""
    reasons = " and ".join(miss.describe(bounds.metric) for miss in bounds.misses(candidate.outcome))
    return f"trial {candidate.number} ({describe(candidate.outcome, bounds)}): {reasons}"
