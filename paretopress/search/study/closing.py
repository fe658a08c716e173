"""The final report of a search: the front with files and test scores, and the points that had to be left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from paretopress.core.outcome import Outcome
from paretopress.errors import ParetopressError, RunError, TargetLostError, typed_line
from paretopress.search.candidates import Bounds, Candidate, front
from paretopress.search.study.nearest import nearest_points

# where a point is left out, those that it dominated may take its place; a store that is gone for good must not be asked for all of them
_ROUNDS = 3

# sha256 -> test score of the file, or why it has none
Scores = Mapping[str, float | RunError]


@dataclass(frozen=True, slots=True)
class FinalReport:
    """The result of a search.

    `nearest` is filled where no point is within every bound; `lost` maps a trial to the reason why it is left out.
    """

    baseline: Outcome
    points: Sequence[Candidate]
    nearest: Sequence[Candidate]
    lost: Mapping[int, str]


def final_report(
    candidates: Sequence[Candidate],
    bounds: Bounds,
    baseline: Outcome,
    have_file: Callable[[Outcome], object],
    score: Callable[[Sequence[Outcome]], Scores],
) -> FinalReport:
    """Return the baseline and the front of the candidates whose files can be had and scored, with their scores on test data.

    A point of which one or the other cannot be done is left out with the reason, and those that it dominated take its place. The baseline
    stays, without a score.

    Args:
        have_file: see that the file is on this host and the one that was measured. score: of several files on test data.
    Raises: TargetLostError: the target that scores is out of reach.
    """
    there: dict[int, Candidate] = {}
    lost: dict[int, str] = {}
    unscored, base = [baseline], baseline
    for _ in range(_ROUNDS):
        points, nearest = _shown([c for c in candidates if c.number not in lost], bounds)
        new = [c for c in (*points, *nearest) if c.number not in there]
        reasons = {c.number: _missing(c.outcome, have_file) for c in new}
        lost |= {number: reason for number, reason in reasons.items() if reason}
        held = [c for c in new if c.number not in lost]
        scores = score([*unscored, *(c.outcome for c in held)])
        if unscored:
            base, unscored = _scored(baseline, scores)[0], []
        for candidate in held:
            outcome, reason = _scored(candidate.outcome, scores)
            if reason:
                lost[candidate.number] = reason
            else:
                there[candidate.number] = replace(candidate, outcome=outcome)
        if all(c.number in there for c in new):
            break
    points, nearest = _shown([there[c.number] for c in candidates if c.number in there], bounds)
    return FinalReport(base, points, nearest, lost)


def _shown(candidates: Sequence[Candidate], bounds: Bounds) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    return front(candidates, bounds), nearest_points(candidates, bounds)


def _missing(outcome: Outcome, have_file: Callable[[Outcome], object]) -> str:
    """Return why the file of an outcome cannot be had, or ""."""
    try:
        have_file(outcome)
    except TargetLostError:
        raise
    except Exception as error:  # whatever the store or the disk meets costs this point
        return str(error) if isinstance(error, ParetopressError) else typed_line(error)
    return ""


def _scored(outcome: Outcome, scores: Scores) -> tuple[Outcome, str]:
    """Return an outcome with its score on test data and "", or as it is and why it has none."""
    score = scores[outcome.onnx_sha256]
    if isinstance(score, RunError):
        return outcome, str(score)
    if not math.isfinite(score):
        return outcome, f"a score must be a finite number, but got test_accuracy={score}"
    return replace(outcome, test_accuracy=score), ""
