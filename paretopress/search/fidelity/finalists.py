"""Choose the next finalist: the candidate whose full fine-tuning promises most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from paretopress.core.outcome import Outcome, Rung
from paretopress.search.candidates import Bounds, Candidate, promising_front, selection_margin
from paretopress.search.fidelity.latency_pooling import chance_within
from paretopress.search.fidelity.remeasurement import OCCASIONS

# before a finalist from that rung is back: full recovery leaves about half of the drop that a longer one left, a quarter of a short one's
_FIRST_GUESS = {Rung.SHORT: 0.25, Rung.LONG: 0.5}
_UNIT_SHARE = 0.1
# the first finalist of so many is the fastest that can be hoped to stay within the bound; the others are spread along the drop
_AT_THE_BOUND_EVERY = 4
# what is expected of a drop is taken to err by a quarter of it and of the bound, a guess on the wide side; a candidate that ends within
# the bounds with this chance is as good as certain to
_DROP_ERROR, _CERTAIN = 0.25, 0.8


def next_finalist(candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds, images: int) -> Candidate | None:
    """Return the candidate whose full recovery promises most, or None if none is left.

    While no candidate is within every bound: the one that most probably ends there, see `_safest`; those whose latency interval holds
    the bound count too, and where there is no such candidate, all that may meet the bounds on latency and size.
    Then, with a bound on the drop: now and then the fastest whose drop is expected to end within it, from the second time on by the
    selection margin; else the one whose drop is expected to end farthest, as a ratio, from all that are there, the baseline included: the
    user picks from a front, not from copies of one point, and asks for half a point, one or two rather than for three or three and a half.
    The expectation is a line through what the finalists before it from the same rung showed.
    Without a bound: the one that adds most hypervolume to the finalists.

    Args:
        candidates: evaluated at a short rung. finals: trial number -> outcome of those already recovered in full.
        images: size of the validation split.
    """
    left = [c for c in candidates if c.number not in finals]
    outcomes = [*finals.values(), *(c.outcome for c in left)]
    by_number = {c.number: c for c in candidates}
    lines = {rung: _line(rung, [by_number[n].outcome for n in finals], list(finals.values()), bounds) for rung in _FIRST_GUESS}
    expected = {c.number: _at(bounds.drop(c.outcome), *lines.get(c.outcome.rung, (1.0, 0.0))) for c in left}
    pool = promising_front(left, bounds)
    if not any(bounds.feasible(outcome) for outcome in outcomes):
        hopeful = [c for c in left if bounds.promising(c.outcome) or bounds.undecided(c.outcome)]
        # what lost too much to be promising is better than nothing while there is time
        return _safest(hopeful or [c for c in left if bounds.may_meet_costs(c.outcome)], expected, bounds)
    if not pool:
        return None
    limit = bounds.budget.max_drop
    if limit is None:
        return _most_volume(pool, candidates, finals, bounds)
    if len(finals) % _AT_THE_BOUND_EVERY == 0:
        aim = limit - (selection_margin(bounds.noise(finals.values(), images), len(finals) + 2) if finals else 0.0)
        hopeful = [c for c in pool if expected[c.number] <= aim]
        return hopeful[0] if hopeful else min(pool, key=lambda c: expected[c.number])
    there = [0.0, *(bounds.drop(final) for final in finals.values())]
    within = [c for c in pool if expected[c.number] <= limit] or pool
    return max(
        within, key=lambda c: min(abs(math.log(_log_scale(expected[c.number], bounds) / _log_scale(drop, bounds))) for drop in there)
    )


def _safest(pool: Sequence[Candidate], expected: Mapping[int, float], bounds: Bounds) -> Candidate | None:
    """Return the candidate that most probably ends within every bound; of those that are as good as certain the fastest, without a bound
    on the drop the most accurate.

    Args:
        expected: trial number -> drop to expect after full recovery.
    """
    limit = bounds.budget.max_drop

    def chance(candidate: Candidate) -> float:
        latency = chance_within(candidate.outcome.latency, bounds.limit_ms, OCCASIONS)
        if limit is None:
            return latency
        drop = expected[candidate.number]
        return latency * NormalDist(drop, _DROP_ERROR * (limit + abs(drop))).cdf(limit)

    chances = {c.number: chance(c) for c in pool}
    certain = [c for c in pool if chances[c.number] >= _CERTAIN]
    if not certain:
        return max(pool, key=lambda c: chances[c.number], default=None)
    if limit is None:
        return max(certain, key=lambda c: c.outcome.val_accuracy)
    return min(certain, key=lambda c: c.outcome.latency.latency_ms)


def _log_scale(drop: float, bounds: Bounds) -> float:
    """Return a drop on a scale whose ratios tell drops apart; below the floor they differ by noise."""
    return max(drop, 0.0) + bounds.floor


def _line(rung: Rung, before: Sequence[Outcome], after: Sequence[Outcome], bounds: Bounds) -> tuple[float, float]:
    """Return slope and offset of the drop after full recovery over the drop at `rung`, by the finalists that came from there.

    Least squares, with the first guess for the slope and none for the offset as one observation each: a small drop ends below zero, for
    the student goes on to learn what the original had not, and a share of it alone would not say so. These observations are made at a
    tenth of the drop that hypervolumes are measured from: at one point where that is ten.
    """
    unit = _UNIT_SHARE * bounds.worst_drop
    pairs = [(bounds.drop(short), bounds.drop(final)) for short, final in zip(before, after, strict=True) if short.rung is rung]
    rows = np.array([(1.0, 0.0), (0.0, 1.0), *((short / unit, 1.0) for short, _ in pairs)])
    slope, offset = np.linalg.lstsq(rows, np.array([_FIRST_GUESS[rung], 0.0, *(final / unit for _, final in pairs)]))[0].tolist()
    return slope, offset * unit


def _at(drop: float, slope: float, offset: float) -> float:
    """Return a line's value; what recovers worse the less it has lost is noise."""
    return max(slope, 0.0) * drop + offset


def _most_volume(pool: Sequence[Candidate], candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds) -> Candidate:
    chosen = [c for c in candidates if c.number in finals]
    if not chosen:
        return max(pool, key=lambda c: c.outcome.val_accuracy)
    return max(pool, key=lambda c: bounds.hypervolume([*chosen, c]))
