from __future__ import annotations

import math

import pytest

from paretopress.search.early_stopping import LEAST_GAIN, early_stop


def test_early_stop_is_none_when_too_few_trials_ran() -> None:
    assert early_stop([5.0] * 59, 100) is None


def test_early_stop_tells_the_rule_when_the_last_window_added_nothing() -> None:
    stop = early_stop([5.0] * 60, 100)
    assert stop is not None
    assert (stop.trials, stop.window, stop.growth) == (60, 30, 0.0)
    assert stop.predicted_gain == pytest.approx(0.0, abs=1e-12)
    assert "the last 30 of 60 trials added 0.00 %" in stop.describe()
    assert "0.00 % (predicted; rule: under 2 %)" in stop.describe()


def test_early_stop_is_none_when_the_last_window_added_half_a_percent() -> None:
    assert early_stop([100.0] * 59 + [100.6], 100) is None
    assert early_stop([100.0] * 59 + [100.4], 100) is not None


def test_early_stop_is_none_when_nothing_is_feasible_yet() -> None:
    assert early_stop([0.0] * 100, 10) is None


def test_early_stop_is_none_when_the_rest_is_predicted_to_add_much() -> None:
    volumes = [71.0 + n for n in range(30)] + [100.0] * 30
    assert early_stop(volumes, 1000) is None
    assert early_stop(volumes, 0) is not None
    stop = early_stop(volumes, 1000, math.inf)
    assert stop is not None
    assert stop.predicted_gain > LEAST_GAIN


def test_early_stop_looks_at_the_last_third_when_many_trials_ran() -> None:
    stop = early_stop([5.0] * 300, 10)
    assert stop is not None
    assert stop.window == 100


def test_early_stop_predicts_by_the_logarithm_of_the_trials() -> None:
    volumes = [100.0 + 0.2 * math.log(n) for n in range(1, 121)]
    stop = early_stop(volumes, 120)
    assert stop is not None
    assert stop.predicted_gain == pytest.approx(0.2 * math.log(2.0) / volumes[-1])


def test_early_stop_ignores_a_fall_when_a_latency_was_measured_again() -> None:
    stop = early_stop([100.0] * 50 + [90.0] * 20, 0)
    assert stop is not None
    assert stop.growth == 0.0
    assert stop.predicted_gain == pytest.approx(0.0, abs=1e-12)
