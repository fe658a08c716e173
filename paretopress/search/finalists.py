"""Who gets the full recovery, one after another while the time lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from paretopress.measurement import Outcome
from paretopress.search.candidates import Bounds, Candidate, front, selection_margin

# before the first finalist is back: full recovery leaves about half of the drop that a short one left
_FIRST_GUESS = 0.5
# shares of the bound on the drop that finalists aim at, in turn: the user picks from a front, not from copies of one point
_AIMS = (1.0, 0.5, 0.75, 0.25)


def next_finalist(candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds, images: int) -> Candidate | None:
    """Return the candidate whose full recovery promises most, or None if nobody is left.

    With a bound on the drop: the fastest whose drop is expected to end within an aim. The expectation scales the drop after the short
    recovery by what the finalists before it showed; the aims are spread along the bound, see `_AIMS`, and the selection margin is kept
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
    ratios = [bounds.drop(final) / d for n, final in finals.items() if (d := bounds.drop(by_number[n].outcome)) > 0.2]
    scale = median(ratios) if ratios else _FIRST_GUESS
    margin = selection_margin(bounds.baseline_accuracy, images, len(finals) + 2)
    turn, share = divmod(len(finals), len(_AIMS))
    aim = min(bounds.budget.max_drop * _AIMS[share], bounds.budget.max_drop - (margin if turn % 2 else 0.0))
    hopeful = [c for c in pool if scale * bounds.drop(c.outcome) <= aim]
    return hopeful[0] if hopeful else min(pool, key=lambda c: bounds.drop(c.outcome))


def _most_volume(pool: Sequence[Candidate], candidates: Sequence[Candidate], finals: Mapping[int, Outcome], bounds: Bounds) -> Candidate:
    chosen = [c for c in candidates if c.number in finals]
    if not chosen:
        return max(pool, key=lambda c: c.outcome.val_accuracy)
    return max(pool, key=lambda c: bounds.hypervolume([*chosen, c]))
