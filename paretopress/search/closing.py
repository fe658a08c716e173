"""The end of a search: the points that are reported, each with its file and its test score, and those that had to be left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from paretopress.errors import TargetLostError, typed_line
from paretopress.measurement import Outcome
from paretopress.search.candidates import Bounds, Candidate, front
from paretopress.search.nearest import nearest_points

# where a point is left out, those that it dominated may take its place; a store that is gone for good must not be asked for all of them
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Reported:
    """What a search comes to; `nearest` are shown where no point is within every bound, `left_out` says by trial why."""

    points: Sequence[Candidate]
    nearest: Sequence[Candidate]
    left_out: Mapping[int, str]


def reported(
    candidates: Sequence[Candidate],
    bounds: Bounds,
    have_file: Callable[[Outcome], object],
    score: Callable[[Outcome], float],
    score_together: Callable[[Sequence[Outcome]], object] = lambda _: None,
) -> Reported:
    """Return the front of the candidates whose files can be had, with their scores on test data.

    A point whose file cannot be had is left out with the reason, and the others take its place. One that cannot be scored stays, without
    the score, and says so in its notes.

    Args:
        have_file: see that the file is on this host and the one that was measured. score: of a file on test data.
        score_together: told of the files that `score` is asked for next, for a score that reads the data once for all of them.
    Raises: TargetLostError: the target that scores is out of reach.
    """
    there: dict[int, Candidate] = {}
    left_out: dict[int, str] = {}
    for _ in range(_ROUNDS):
        points, nearest = _shown([c for c in candidates if c.number not in left_out], bounds)
        new = [c for c in (*points, *nearest) if c.number not in there]
        if not new:
            break
        for candidate in new:
            try:
                have_file(candidate.outcome)
            except Exception as error:  # whatever the store or the disk meets costs this point
                left_out[candidate.number] = typed_line(error)
        held = [c for c in new if c.number not in left_out]
        score_together([c.outcome for c in held])
        there |= {c.number: replace(c, outcome=scored(c.outcome, score)) for c in held}
    points, nearest = _shown([there[c.number] for c in candidates if c.number in there], bounds)
    return Reported(points, nearest, left_out)


def _shown(candidates: Sequence[Candidate], bounds: Bounds) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    return front(candidates, bounds), nearest_points(candidates, bounds)


def scored(outcome: Outcome, score: Callable[[Outcome], float]) -> Outcome:
    """Return an outcome with its score on test data, or with a note that says why it has none."""
    try:
        return replace(outcome, test_accuracy=score(outcome))
    except TargetLostError:
        raise
    except Exception as error:  # the user's metric, or a score that is not a number
        return replace(outcome, notes=(*outcome.notes, f"it has no test score: {typed_line(error)}"))
