"""Evaluate a plan rung by rung, as long as it can still reach the front and the next rung is informative."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError
from paretopress.search.candidates import Bounds, RungScores
from paretopress.search.fidelity.promotion import Pair, agreement, expected_drop, reason_to_stop

# rungs that order so many plans with such a rank correlation agree; then one plan in so many goes on
_TELLING_PAIRS, _AGREES, _GOES_ON_ONE_IN = 8, 0.9, 4

# how rungs agree is taken from so many plans, the newest
_MOST_SEEN = 1_000


class Evaluate(Protocol):
    """Evaluates a plan: compresses, fine-tunes and measures; raises what fails."""

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung; `number` is its trial. A rung is asked for after the one below."""
        ...


@dataclass(frozen=True, slots=True)
class RungLadder:
    """Evaluates plans on rising rungs; `seen` are the scores of earlier plans. Seconds by stage are summed over the rungs."""

    evaluate: Evaluate
    ladder: Sequence[Rung]
    bounds: Bounds
    seen: Sequence[RungScores]

    def climb(self, plan: Plan, number: int) -> tuple[Outcome, dict[Rung, float]]:
        """Return the outcome at the highest rung that the plan reached, and its accuracy at each rung.

        A plan that ends before any training is marked as rejected with the reason.
        """
        outcome = self.evaluate(plan, self.ladder[0], number)
        accuracies = {outcome.rung: outcome.val_accuracy}
        for rung in self.ladder[1:]:
            reason = outcome.rejected or self._cannot_reach_front(outcome, rung) or self._why_uninformative(outcome.rung, rung)
            if reason:
                return (replace(outcome, rejected=reason) if outcome.rung is Rung.COSTS else outcome), accuracies
            try:
                higher = self.evaluate(plan, rung, number)
            except OutOfTimeError:
                if outcome.rung is Rung.COSTS:
                    raise
                return outcome, accuracies  # the run ends: what the rung below showed stands
            outcome = replace(higher, stages_s=_added(outcome.stages_s, higher.stages_s))
            accuracies[outcome.rung] = outcome.val_accuracy
        return outcome, accuracies

    def predicted_accuracy(self, outcome: Outcome) -> float | None:
        """Return the accuracy to expect at the first rung that trains of a plan that was stopped before it; None if too little is known."""
        expected = expected_drop(self.bounds.drop(outcome), self._pairs(self.ladder[0], self.ladder[1]), self.bounds.floor)
        return None if expected is None else self.bounds.baseline_accuracy - expected

    def _pairs(self, lower: Rung, higher: Rung) -> list[Pair]:
        return score_pairs(self.seen[-_MOST_SEEN:], lower, higher, self.bounds)

    def _cannot_reach_front(self, outcome: Outcome, rung: Rung) -> str:
        pairs = self._pairs(outcome.rung, rung)
        rivals = [(self.bounds.points_lost(c.accuracies[rung]), c.latency_ms) for c in self.seen if rung in c.accuracies]
        allowed = self.bounds.allowed_drop(rung)
        return reason_to_stop(self.bounds.drop(outcome), outcome.latency.latency_ms, pairs, rivals, allowed, floor=self.bounds.floor)

    def _why_uninformative(self, lower: Rung, higher: Rung) -> str:
        """Return why the higher rung would be uninformative, or "".

        Where two rungs that train order the plans alike, the lower one's order is taken, and one plan in four goes on to see that it holds.
        """
        if lower is Rung.COSTS:
            return ""
        pairs = self._pairs(lower, higher)
        known = agreement(lower, higher, pairs).rank_correlation
        if len(pairs) < _TELLING_PAIRS or known is None or known < _AGREES:
            return ""
        waiting = itertools.takewhile(lambda climb: higher not in climb.accuracies, reversed(self.seen))
        if sum(lower in climb.accuracies for climb in waiting) >= _GOES_ON_ONE_IN - 1:
            return ""
        return f"the rungs agree so far (rank correlation {known:.2f})"


def _added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}


def score_pairs(seen: Sequence[RungScores], lower: Rung, higher: Rung, bounds: Bounds) -> list[Pair]:
    """Return the drops (lower rung, higher rung) of the plans that were seen at both."""
    both = [c.accuracies for c in seen if lower in c.accuracies and higher in c.accuracies]
    return [(bounds.points_lost(a[lower]), bounds.points_lost(a[higher])) for a in both]
