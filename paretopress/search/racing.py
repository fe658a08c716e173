"""Which plans go on to the next rung: those that can still join the front, by how the rungs have agreed so far in this run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts at their first use

from paretopress.measurement import Rung

# Before so many plans were seen at both rungs all go on: a line through fewer says little.
LEAST_PAIRS = 5
# A plan goes on unless it has less than this chance to end as well as it must.
_CHANCE = 0.1
# Drops of less than half a point differ by noise; logarithms need a floor.
_FLOOR_POINTS = 0.5

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two rungs agreed: Spearman's rank correlation over the plans seen at both, None below 3 plans."""

    lower: Rung
    higher: Rung
    plans: int
    rank_correlation: float | None


def agreement(lower: Rung, higher: Rung, pairs: Sequence[Pair]) -> Agreement:
    """Return how the drops (lower rung, higher rung) of the same plans agree."""
    correlation = None
    if len(pairs) >= 3 and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
        correlation = float(scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    return Agreement(lower, higher, len(pairs), correlation)


def optimistic_drop(drop: float, pairs: Sequence[Pair]) -> float | None:
    """Return the drop at the higher rung that a plan undercuts with a chance of one in ten; None while too few pairs are known.

    Args:
        drop: points lost at the lower rung. pairs: (lower, higher) drops of the plans that were seen at both.
    A straight line through the logarithms, with the prediction interval of simple regression (Draper and Smith 1998, section 3.1). The
    slope is kept at 0 or above: a plan is not thought better for having lost more.
    """
    predicted = _predicted_drop(drop, pairs, _CHANCE)
    return 0.0 if predicted is not None and predicted <= _FLOOR_POINTS else predicted  # below the floor drops are not told apart


def expected_drop(drop: float, pairs: Sequence[Pair]) -> float | None:
    """Return the drop at the higher rung to expect, by the same line; None while too few pairs are known."""
    return _predicted_drop(drop, pairs, 0.5)


def _predicted_drop(drop: float, pairs: Sequence[Pair], chance: float) -> float | None:
    """Return the drop that is undercut with that chance."""
    if len(pairs) < LEAST_PAIRS:
        return None
    x, y = (np.log(np.maximum(values, _FLOOR_POINTS)) for values in zip(*pairs, strict=True))
    at = math.log(max(drop, _FLOOR_POINTS))
    centre, spread = float(x.mean()), float(((x - x.mean()) ** 2).sum())
    slope = max(float(((x - centre) * (y - y.mean())).sum()) / spread, 0.0) if spread > 0.0 else 0.0
    residuals = y - y.mean() - slope * (x - centre)
    degrees = len(pairs) - 2
    variance = float((residuals**2).sum()) / degrees
    leverage = 1.0 + 1.0 / len(pairs) + ((at - centre) ** 2 / spread if spread > 0.0 else 0.0)
    expected = float(y.mean()) + slope * (at - centre)
    return math.exp(expected + float(scipy.stats.t.ppf(chance, degrees)) * math.sqrt(variance * leverage))


def cannot_join(drop: float, latency_ms: float, pairs: Sequence[Pair], rivals: Iterable[tuple[float, float]], max_drop: float) -> str:
    """Return why a plan can no longer join the front of (drop, latency) at the next rung, or "".

    Args:
        drop, latency_ms: of the plan at its rung. pairs: see `optimistic_drop`.
        rivals: (drop, latency in milliseconds) of the plans seen at the next rung. max_drop: what is allowed there, in points.
    Multiply-adds do not count here: a plan that is neither faster nor more accurate earns no training by having fewer.
    """
    hoped = optimistic_drop(drop, pairs)
    if hoped is None:
        return ""
    if hoped > max_drop:
        return f"cannot join the front: {drop:.1f} points lost, at best {hoped:.1f} after the next rung (predicted), {max_drop:g} allowed"
    ahead = [(d, ms) for d, ms in rivals if d < hoped and ms < latency_ms]
    if not ahead:
        return ""
    rival_drop, rival_ms = min(ahead)
    return (
        f"cannot join the front: {drop:.1f} points lost, at best {hoped:.1f} after the next rung (predicted), "
        f"but another lost {rival_drop:.1f} at {rival_ms:.3f} ms"
    )
