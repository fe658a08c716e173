"""Who gets the full recovery, one after another while the time lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from paretopress.measurement import Outcome, Rung
from paretopress.search.candidates import Bounds, Candidate, front, selection_margin

# before a finalist from that rung is back: full recovery leaves about half of the drop that a longer one left, a quarter of a short one's
_FIRST_GUESS = {Rung.SHORT: 0.25, Rung.LONG: 0.5}
# points; the ratio of smaller drops is noise
_TELLING_DROP = 0.2
# shares of the bound on the drop that finalists aim at, in turn: the user picks from a front, not from copies of one point
_AIMS = (1.0, 0.33, 0.67, 0.17)


def next_finalist(candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds, images: int) -> Candidate | None:
    """Return the candidate whose full recovery promises most, or None if nobody is left.

    With a bound on the drop: the fastest whose drop is expected to end within an aim. The expectation scales its drop by what the
    finalists before it from the same rung showed; the aims are spread along the bound, see `_AIMS`, and the selection margin is kept
    below the bound itself every other round. Without a bound: the one that adds most hypervolume to the finalists.

    Args:
        candidates: evaluated at a short rung. finals: trial number -> outcome of those already recovered in full.
        images: size of the validation split.
    """
    pool = front([c for c in candidates if c.number not in finals], bounds)
    if not pool:
        return None
    if bounds.budget.max_drop is None:
        return _most_volume(pool, candidates, finals, bounds)
    by_number = {c.number: c for c in candidates}
    scales = {rung: _scale(rung, [by_number[n].outcome for n in finals], list(finals.values()), bounds) for rung in _FIRST_GUESS}
    margin = selection_margin(bounds.baseline_accuracy, images, len(finals) + 2)
    turn, share = divmod(len(finals), len(_AIMS))
    aim = min(bounds.budget.max_drop * _AIMS[share], bounds.budget.max_drop - (margin if turn % 2 else 0.0))
    hopeful = [c for c in pool if scales[c.outcome.rung] * bounds.drop(c.outcome) <= aim]
    return hopeful[0] if hopeful else min(pool, key=lambda c: scales[c.outcome.rung] * bounds.drop(c.outcome))


def _scale(rung: Rung, before: Sequence[Outcome], after: Sequence[Outcome], bounds: Bounds) -> float:
    """Return the share of a drop at `rung` that full recovery leaves, by the finalists that came from there."""
    pairs = [(bounds.drop(short), bounds.drop(final)) for short, final in zip(before, after, strict=True) if short.rung is rung]
    ratios = [final / drop for drop, final in pairs if drop > _TELLING_DROP]
    return median(ratios) if ratios else _FIRST_GUESS[rung]


def _most_volume(pool: Sequence[Candidate], candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds) -> Candidate:
    chosen = [c for c in candidates if c.number in finals]
    if not chosen:
        return max(pool, key=lambda c: c.outcome.val_accuracy)
    return max(pool, key=lambda c: bounds.hypervolume([*chosen, c]))
