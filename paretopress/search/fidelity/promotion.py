"""Promotion: a plan goes on to the next rung if it can still reach the front, judged by how the rungs agreed so far in this run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts at their first use

from paretopress.core.outcome import Rung

# Before so many plans were seen at both rungs all go on: a line through fewer says little.
LEAST_PAIRS = 5
# A plan goes on unless it has less than this chance to end as well as it must.
_CHANCE = 0.1
# a prediction at the floor comes out of logarithms a few rounding errors away from it
_ROUNDING = 1e-9

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two rungs: Spearman's rank correlation over the plans evaluated at both, None below 3 plans."""

    lower: Rung
    higher: Rung
    plans: int
    rank_correlation: float | None


def agreement(lower: Rung, higher: Rung, pairs: Sequence[Pair]) -> Agreement:
    """Return the agreement of two rungs by the drops (lower rung, higher rung) of the same plans."""
    correlation = None
    if len(pairs) >= 3 and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
        correlation = float(scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    return Agreement(lower, higher, len(pairs), correlation)


def optimistic_drop(drop: float, pairs: Sequence[Pair], floor: float) -> float | None:
    """Return the drop at the higher rung that a plan undercuts with a chance of one in ten; None while too few pairs are known.

    Args:
        drop: what is lost at the lower rung. pairs: (lower, higher) drops of the plans that were seen at both.
        floor: drops below it are not told apart, see `Bounds.floor`; above 0, for logarithms need one.
    A straight line through the logarithms, with the prediction interval of simple regression (Draper and Smith 1998, section 3.1). The
    slope is kept at 0 or above: a plan is not thought better for having lost more.
    """
    predicted = _predicted_drop(drop, pairs, floor, _CHANCE)
    return 0.0 if predicted is not None and predicted <= floor * (1.0 + _ROUNDING) else predicted


def expected_drop(drop: float, pairs: Sequence[Pair], floor: float) -> float | None:
    """Return the drop at the higher rung to expect, by the same line; None while too few pairs are known."""
    return _predicted_drop(drop, pairs, floor, 0.5)


def _predicted_drop(drop: float, pairs: Sequence[Pair], floor: float, chance: float) -> float | None:
    """Return the drop that is undercut with that chance."""
    if len(pairs) < LEAST_PAIRS:
        return None
    x, y = (np.log(np.maximum(values, floor)) for values in zip(*pairs, strict=True))
    at = math.log(max(drop, floor))
    centre, spread = float(x.mean()), float(((x - x.mean()) ** 2).sum())
    slope = max(float(((x - centre) * (y - y.mean())).sum()) / spread, 0.0) if spread > 0.0 else 0.0
    residuals = y - y.mean() - slope * (x - centre)
    degrees = len(pairs) - 2
    variance = float((residuals**2).sum()) / degrees
    leverage = 1.0 + 1.0 / len(pairs) + ((at - centre) ** 2 / spread if spread > 0.0 else 0.0)
    expected = float(y.mean()) + slope * (at - centre)
    return math.exp(expected + float(scipy.stats.t.ppf(chance, degrees)) * math.sqrt(variance * leverage))


def reason_to_stop(
    drop: float, latency_ms: float, pairs: Sequence[Pair], rivals: Iterable[tuple[float, float]], max_drop: float, *, floor: float
) -> str:
    """Return why a plan can no longer join the front of (drop, latency) at the next rung, or "".

    Args:
        drop, latency_ms: of the plan at its rung. pairs: see `optimistic_drop`.
        rivals: (drop, latency in milliseconds) of the plans seen at the next rung. max_drop: what is allowed there.
        floor: see `optimistic_drop`.
    Multiply-adds do not count here: a plan that is neither faster nor more accurate earns no training by having fewer.
    """
    hoped = optimistic_drop(drop, pairs, floor)
    if hoped is None:
        return ""
    digits = max(1, math.ceil(-math.log10(floor)))
    outlook = f"a drop of {drop:.{digits}f}, at best {hoped:.{digits}f} after the next rung (predicted)"
    if hoped > max_drop:
        return f"cannot join the front: {outlook}, {max_drop:g} allowed"
    ahead = [(d, ms) for d, ms in rivals if d < hoped and ms < latency_ms]
    if not ahead:
        return ""
    rival_drop, rival_ms = min(ahead)
    return f"cannot join the front: {outlook}, but another lost {rival_drop:.{digits}f} at {rival_ms:.3f} ms"
