"""The scale of a metric: its noise and its range, estimated from how the score varies over the validation items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from paretopress.core.outcome import Metric

# Two models that saw the same items agree on most of them: the difference of their scores has about this share of the error of one score.
# It stands in where the difference itself is not known item by item.
PAIRED_SHARE = 0.6
# The drop that hypervolumes are measured from, as a share of the spread of one item's score. For 90 % of right answers (a spread of 30
# points) it is 10 points, which is what all figures in benchmarks/results were made with.
_WORST_SHARE = 1.0 / 3.0
# differences below two standard errors are taken for noise; so are those below a twentieth of the drop that hypervolumes are measured from
_NOISE_ERRORS, _LEAST_FLOOR_SHARE = 2.0, 0.05
# where no item was scored: percent are measured from 10 points down, other metrics from a ninth of the baseline's score, which is the same
# for a baseline of 90 %
_WORST_PERCENT, _WORST_SHARE_OF_BASELINE = 10.0, 1.0 / 9.0


@dataclass(frozen=True, slots=True)
class AccuracyScale:
    """The noise and the range of a metric, in its own unit; neither is negative.

    Attributes:
        noise: standard error of the difference of two models' scores on the same validation items.
        worst_drop: the drop below the baseline that hypervolumes are measured from.
    """

    noise: float
    worst_drop: float

    @property
    def floor(self) -> float:
        """The smallest difference of two scores that is not taken for noise."""
        return max(_NOISE_ERRORS * self.noise, _LEAST_FLOOR_SHARE * self.worst_drop)

    @classmethod
    def of_baseline(cls, error: float, items: int) -> Self:
        """Return the scale of a metric by the standard error of the baseline's score on so many items."""
        return cls(PAIRED_SHARE * error, _WORST_SHARE * error * math.sqrt(items))

    @classmethod
    def assumed(cls, metric: Metric, baseline: float, items: int = 0) -> Self:
        """Return the scale to assume of a metric that was not scored item by item, as in runs of earlier versions.

        A score in percent is taken for a share of right answers, with the binomial error of `items` answers and half a wrong one.
        """
        if metric.unit != "%" or not 1.0 < baseline <= 100.0:  # a share in [0, 1] has its unit left at the default now and then
            worst = _WORST_SHARE_OF_BASELINE * abs(baseline) or 1.0
            return cls(_LEAST_FLOOR_SHARE / _NOISE_ERRORS * worst, worst)
        share = (baseline / 100.0 * items + 0.5) / (items + 1.0)
        return cls(PAIRED_SHARE * 100.0 * math.sqrt(share * (1.0 - share) / items) if items else 0.0, _WORST_PERCENT)
