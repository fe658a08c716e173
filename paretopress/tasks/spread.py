"""Standard errors of scores and of differences of scores, because the items are a sample."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from paretopress.tasks.base import Scorer

Scores = npt.NDArray[np.float64]
# A bootstrap of a metric that is no mean over items draws so many samples, each of a fifth of the items within these bounds. The error that
# it finds is known to 13 %, and a metric that takes long (mAP, a function of the user's) is computed for 9,000 items at the most.
_DRAWS, _SHARE, _FEWEST, _MOST = 30, 0.2, 50, 300
_RIGHT = 100.0  # the score of an item that is answered rightly; a wrong one has 0


@runtime_checkable
class PerItem(Protocol):
    """A scorer whose score is the mean over the items of a score of each."""

    def item_scores(self) -> Scores:
        """Return the scores (N,) of the items, in the order in which they came."""
        ...


@runtime_checkable
class Resampled(Protocol):
    """A scorer that can tell the score of any of its items taken together."""

    @property
    def items(self) -> int:
        """The number of items."""
        ...

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the score of the items at `picks` (M,), which may repeat; raises ValueError where they have none."""
        ...


def item_scores(scorer: Scorer) -> Scores | None:
    """Return the scores (N,) of the items; None of a metric that is no mean over them."""
    return scorer.item_scores() if isinstance(scorer, PerItem) else None


def score_error(scorer: Scorer) -> float | None:
    """Return the standard error of a score, by the items as a sample; None where the scorer keeps none, or too few samples have a score.

    For a mean over items it is their standard deviation over the root of their number, which is what a bootstrap of the mean converges
    to. For another metric the items are drawn anew, with a fixed seed: m of n in each draw, and the error is scaled by sqrt(m / n).
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 6; Bickel, Goetze and van Zwet 1997 (m out of n).
    """
    scores = item_scores(scorer)
    if scores is not None:
        return float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else None
    if not isinstance(scorer, Resampled) or scorer.items < 2:
        return None
    rng, items = np.random.default_rng(0), scorer.items
    drawn = min(max(round(_SHARE * items), _FEWEST), _MOST, items)
    found = [value for _ in range(_DRAWS) if math.isfinite(value := _score_of(scorer, rng.integers(items, size=drawn)))]
    return float(np.std(found, ddof=1)) * math.sqrt(drawn / items) if len(found) > _DRAWS // 2 else None


def paired_error(scores: Scores | None, others: Scores | None) -> float | None:
    """Return the standard error of the difference of two models' mean scores on the same items (N,); None where they are not known.

    Of right and wrong answers half an item more of each of the four kinds is counted: a hundred answers that are all alike do not show
    that no answer ever differs.
    Source: Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    if scores is None or others is None or len(scores) != len(others) or len(scores) < 2:
        return None
    differences = scores - others
    if not np.isin(np.concatenate([scores, others]), (0.0, _RIGHT)).all():
        return float(differences.std(ddof=1)) / math.sqrt(len(scores))
    count = len(scores) + 2.0
    squares, total = np.square(differences).sum() + _RIGHT**2, differences.sum()
    return float(math.sqrt(squares - total**2 / count) / count)


def _score_of(scorer: Any, picks: npt.NDArray[np.int64]) -> float:
    try:
        return float(scorer.score_of(picks))
    except Exception:  # a function of the user's may raise anything, as for items that are all of one class; too few draws give None
        return math.nan
