"""Early stopping: end the trials when the hypervolume has stopped growing, and predict what further trials would add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The search ends when the last third of its trials, thirty at least, added less than half a percent to the hypervolume, and those that are
# left are predicted to add less than LEAST_GAIN: what either half does to real searches is in benchmarks/stopping.py.
_WINDOW_SHARE, _LEAST_WINDOW = 1.0 / 3.0, 30
_LEAST_GROWTH, LEAST_GAIN = 0.005, 0.02


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a search ended early.

    Attributes:
        trials: run so far. window: the last trials that the rule looked at. growth: share of the hypervolume that they added.
        rest_trials: that the time or the number of trials would still have allowed.
        predicted_gain: share of the hypervolume that those would probably have added.
    """

    trials: int
    window: int
    growth: float
    rest_trials: int
    predicted_gain: float

    def describe(self) -> str:
        """Return the rule and the prediction as a sentence."""
        return (
            f"stopped early: the last {self.window} of {self.trials} trials added {100.0 * self.growth:.2f} % to the hypervolume "
            f"(rule: under {100.0 * _LEAST_GROWTH:g} %); about {self.rest_trials} more would have added "
            f"{100.0 * self.predicted_gain:.2f} % (predicted; rule: under {100.0 * LEAST_GAIN:g} %)"
        )


def early_stop(volumes: Sequence[float], rest_trials: int, least_gain: float = LEAST_GAIN) -> EarlyStop | None:
    """Return the reason to end the trials early, None to continue.

    Args:
        volumes: the hypervolume of the front after each trial.
        rest_trials: how many more there would be.
        least_gain: share of the hypervolume that those have to be predicted to add for the search to go on.
    The rule: of n trials the last w = max(30, n / 3) added less than 0.5 %, the rest would add less than `least_gain`, and n >= 2 w. The
    prediction extends the volume's growth with the logarithm of the number of trials, as it was over the last two windows.
    """
    best = np.maximum.accumulate(np.asarray(volumes, dtype=float)) if volumes else np.zeros(0)
    trials = len(best)
    window = max(_LEAST_WINDOW, math.ceil(trials * _WINDOW_SHARE))
    if trials < 2 * window or best[-1] <= 0.0:
        return None
    growth = float((best[-1] - best[-1 - window]) / best[-1])
    if growth >= _LEAST_GROWTH:
        return None
    counted = np.log(np.arange(trials - 2 * window, trials) + 1.0)
    slope = max(float(np.polyfit(counted, best[-2 * window :], 1)[0]), 0.0)
    gain = slope * math.log((trials + max(rest_trials, 0)) / trials) / float(best[-1])
    return EarlyStop(trials, window, growth, rest_trials, gain) if gain < least_gain else None
