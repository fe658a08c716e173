"""Evaluated candidates: feasibility under the budget, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from paretopress.core.outcome import Budget, Latency, Metric, Miss, Outcome, Rung, drop_between, missed
from paretopress.core.pareto import hypervolume_2d, non_dominated, running_hypervolumes_2d
from paretopress.core.plan import Plan
from paretopress.search.accuracy_scale import AccuracyScale

# the rungs of a trial, the cheapest first; a finalist is recovered in full beyond them
RUNGS = (Rung.COSTS, Rung.SHORT, Rung.LONG)
# A short fine-tuning recovers less than a full one. The CIFAR-10 ResNet-20 with four branches removed has lost 9.1 points after 10 steps,
# 4.0 after 45 and 1.7 in the end.
DROP_FACTORS = {Rung.COSTS: 12.0, Rung.SHORT: 6.0, Rung.LONG: 3.0, Rung.FINAL: 1.0}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One evaluated plan; `number` is its trial."""

    number: int
    plan: Plan
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RungScores:
    """The accuracy of one plan at each rung that it reached, and its latency in milliseconds as first measured."""

    accuracies: Mapping[Rung, float]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """The budget in absolute figures, which the baseline of the run determines.

    `limit_ms` bounds the upper end of the latency interval; `baseline_accuracy` is the score on validation data, in `metric`'s unit.
    `scale` is the noise and range of that metric, None where it was not measured; `baseline_ci_ms` the 95 % interval of `baseline_ms`.
    `short_trains` is whether candidates are trained at the short rung; else what is allowed there is what is allowed untrained ones.
    """

    budget: Budget
    baseline_ms: float
    baseline_accuracy: float
    metric: Metric = field(default_factory=Metric)
    scale: AccuracyScale | None = None
    baseline_ci_ms: tuple[float, float] | None = None
    short_trains: bool = True

    @property
    def limit_ms(self) -> float:
        """The bound on latency in milliseconds."""
        return self.budget.limit_ms(self.baseline_ms)

    @property
    def worst_drop(self) -> float:
        """The drop that hypervolumes are measured from; at least twice the bound, so that what is within it counts."""
        return max(self._scale().worst_drop, 2.0 * (self.budget.max_drop or 0.0))

    @property
    def floor(self) -> float:
        """The smallest difference of two scores that is not taken for noise, in the metric's unit."""
        return self._scale().floor

    def noise(self, outcomes: Iterable[Outcome], images: int) -> float:
        """Return the standard error of a drop: as measured, paired item by item, of the outcomes of which it is known; else the scale's.

        Args:
            images: size of the validation split, for a scale that was not measured.
        """
        known = [outcome.val_error for outcome in outcomes if outcome.val_error is not None]
        return math.sqrt(sum(error**2 for error in known) / len(known)) if known else self._scale(images).noise

    def _scale(self, images: int = 0) -> AccuracyScale:
        return self.scale or AccuracyScale.assumed(self.metric, self.baseline_accuracy, images)

    def on_scale(self, latency: Latency) -> Latency:
        """Return a latency with the interval that is compared with the limit.

        A bound on the speed-up is one on the ratio, of which the baseline's own p50 is no part. A bound in milliseconds is compared with
        the ratio times that p50, and its interval belongs to the product: half-widths in the logarithm are added in quadrature.
        Source: Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER).
        """
        if self.budget.latency_ms is None or self.baseline_ci_ms is None:
            return latency
        low, high = self.baseline_ci_ms
        error, (ratio_low, ratio_high) = math.log(high / low) / 2.0, latency.ratio_ci
        down, up = (math.hypot(math.log(end / latency.ratio), error) for end in (ratio_low, ratio_high))
        interval = (latency.latency_ms * math.exp(-down), latency.latency_ms * math.exp(up))
        return replace(latency, latency_ci_ms=interval, baseline_error=error)

    def drop(self, outcome: Outcome) -> float:
        """Return the drop of the validation score against the baseline, in the metric's unit."""
        return self.points_lost(outcome.val_accuracy)

    def points_lost(self, accuracy: float) -> float:
        """Return the drop of a score against the baseline, in the metric's unit."""
        return drop_between(self.baseline_accuracy, accuracy)

    def constraints(self, outcome: Outcome) -> Mapping[str, float]:
        """Return constraint -> violation relative to its bound, as the sampler is told: 0 or below is met.

        The bound on the drop is `DROP_FACTORS` times as wide below the final rung; what is reported must be `feasible`.
        """
        violations = {"latency_ms": outcome.latency.latency_ci_ms[1] / self.limit_ms - 1.0}
        if self.budget.size_bytes is not None:
            violations["size_bytes"] = outcome.size_bytes / self.budget.size_bytes - 1.0
        if self.budget.max_drop is not None:
            violations["max_drop"] = (self.drop(outcome) - self.allowed_drop(outcome.rung)) / self.budget.max_drop
        return violations

    def allowed_drop(self, rung: Rung) -> float:
        """Return the largest drop that a plan may show at a rung; infinite without a bound."""
        if self.budget.max_drop is None:
            return math.inf
        untrained = rung is Rung.SHORT and not self.short_trains
        return DROP_FACTORS[Rung.COSTS if untrained else rung] * self.budget.max_drop

    def undecided(self, outcome: Outcome) -> bool:
        """Return whether only the latency is undecided: its interval contains the limit, and every other bound is met."""
        low, high = outcome.latency.latency_ci_ms
        return not outcome.rejected and low <= self.limit_ms < high and self._meets_all_but(outcome, "latency_ms")

    def within_costs(self, outcome: Outcome) -> bool:
        """Return whether the outcome meets every bound but that on the drop."""
        return self._meets_all_but(outcome, "max_drop")

    def may_meet_costs(self, outcome: Outcome) -> bool:
        """Return whether the outcome was recovered and meets every bound but that on the drop, its latency perhaps: the interval may
        hold the limit.
        """
        low, _ = outcome.latency.latency_ci_ms
        return not outcome.rejected and low <= self.limit_ms and self._meets_all_but(outcome, "latency_ms", "max_drop")

    def promising(self, outcome: Outcome) -> bool:
        """Return whether the outcome was recovered and meets the bounds that steer the search at its rung."""
        return not outcome.rejected and self._meets_all_but(outcome)

    def _meets_all_but(self, outcome: Outcome, *names: str) -> bool:
        return all(violation <= 0.0 for name, violation in self.constraints(outcome).items() if name not in names)

    def misses(self, outcome: Outcome) -> tuple[Miss, ...]:
        """Return which of the user's own bounds the outcome's figures miss, whatever rung they are from."""
        return missed(
            {
                "latency_ms": (outcome.latency.latency_ci_ms[1], self.limit_ms),
                "size_bytes": (outcome.size_bytes, self.budget.size_bytes),
                "max_drop": (self.drop(outcome), self.budget.max_drop),
            }
        )

    def feasible(self, outcome: Outcome) -> bool:
        """Return whether the outcome was recovered and meets every one of the user's own bounds."""
        return not outcome.rejected and not self.misses(outcome)

    def hypervolume(self, candidates: Sequence[Candidate]) -> float:
        """Return the area (drop of the score x share of the baseline's latency) dominated by the promising candidates.

        Reference: the baseline's latency, at `worst_drop` below the baseline's accuracy.
        """
        points = [(c.outcome.latency.latency_ms / self.baseline_ms, self.drop(c.outcome)) for c in candidates if self.promising(c.outcome)]
        return hypervolume_2d(points, (1.0, self.worst_drop))

    def hypervolumes(self, candidates: Sequence[Candidate | None]) -> list[float]:
        """Return the hypervolume of the first 1, 2, ... candidates; None adds nothing."""
        counted = (None if c is None or self.hypervolume([c]) <= 0.0 else c.outcome for c in candidates)
        points = [None if o is None else (o.latency.latency_ms / self.baseline_ms, self.drop(o)) for o in counted]
        return running_hypervolumes_2d(points, (1.0, self.worst_drop))


def front(candidates: Sequence[Candidate], bounds: Bounds) -> list[Candidate]:
    """Return the feasible candidates that no other dominates in (accuracy, MACs, latency), fastest first: what is reported and exported."""
    return undominated([c for c in candidates if bounds.feasible(c.outcome)])


def promising_front(candidates: Sequence[Candidate], bounds: Bounds) -> list[Candidate]:
    """Return the promising candidates that no other dominates in (accuracy, MACs, latency), fastest first: what steers the search."""
    return undominated([c for c in candidates if bounds.promising(c.outcome)])


def undominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other dominates in (accuracy, MACs, latency), fastest first."""
    points = [(-c.outcome.val_accuracy, float(c.outcome.macs), c.outcome.latency.latency_ms) for c in candidates]
    return sorted((candidates[i] for i in non_dominated(points)), key=lambda c: c.outcome.latency.latency_ms)


def selection_margin(noise: float, compared: int) -> float:
    """Return the expected optimism of the best of several noisy scores (an upper bound on it).

    The expected maximum of n normal errors is below sigma * sqrt(2 ln n).

    Args:
        noise: sigma, the standard error of one score's difference from the baseline's, see `Bounds.noise`. compared: n.
    """
    return noise * math.sqrt(2.0 * math.log(compared)) if compared > 1 else 0.0


def best(points: Sequence[Candidate], bounds: Bounds, images: int) -> Candidate | None:
    """Return the point of a front to ship, or None if there is none: a fully recovered one where there are any.

    With a bound on the drop: the fastest whose drop stays within it by the selection margin, else the one with the smallest drop.
    Without: the most accurate.
    """
    pool = [c for c in points if c.outcome.rung is Rung.FINAL] or list(points)
    if not pool:
        return None
    most_accurate = max(pool, key=lambda c: (c.outcome.val_accuracy, -c.outcome.latency.latency_ms))
    if bounds.budget.max_drop is None:
        return most_accurate
    margin = selection_margin(bounds.noise((c.outcome for c in pool), images), len(pool))
    safe = [c for c in pool if bounds.drop(c.outcome) + margin <= bounds.budget.max_drop]
    return min(safe, key=lambda c: c.outcome.latency.latency_ms) if safe else most_accurate
