from __future__ import annotations

import math

import numpy as np
import pytest

from paretopress.measurement import Latency
from paretopress.search.occasions import drift, pooled


def latency(ratio: float, half_width: float = 0.01) -> Latency:
    interval = (ratio * math.exp(-half_width), ratio * math.exp(half_width))
    scaled = (2.0 * interval[0], 2.0 * interval[1])
    return Latency(2.0 * ratio, scaled, ratio, interval, 2.0 * ratio, 2.5 * ratio, 2.0, 16, 100, 0.5)


def test_drift_is_the_prior_when_nothing_was_repeated() -> None:
    assert drift([]) == pytest.approx(0.06)
    assert drift([[latency(0.5)]]) == pytest.approx(0.06)


def test_drift_matches_hand_count_when_two_files_were_repeated() -> None:
    # logs -d and +d around a centre: squares 2 d^2 with one degree of freedom each; the error within is (0.0196 / 1.96)^2 = 1e-4
    files = [[latency(math.exp(-0.1), 0.0196), latency(math.exp(0.1), 0.0196)]] * 2
    assert drift(files) == pytest.approx(math.sqrt((4 * 0.06**2 + (4 * 0.01 - 2 * 1e-4)) / (4 + 2)))


def test_drift_approaches_the_truth_when_much_was_repeated() -> None:
    rng = np.random.default_rng(0)
    files = [[latency(0.5 * math.exp(value), 0.0196) for value in rng.normal(0.0, math.hypot(0.08, 0.01), 5)] for _ in range(60)]
    assert drift(files) == pytest.approx(0.08, rel=0.1)


def test_pooled_widens_by_the_drift_when_measured_once() -> None:
    one = pooled([latency(0.5, 0.0196)], 0.03)
    assert one.ratio == pytest.approx(0.5)
    assert one.latency_ms == pytest.approx(1.0)
    assert one.ratio_ci[1] == pytest.approx(0.5 * math.exp(1.96 * math.hypot(0.03, 0.01)))
    assert one.latency_ci_ms == pytest.approx((2 * one.ratio_ci[0], 2 * one.ratio_ci[1]))


def test_pooled_narrows_with_the_root_of_the_occasions_when_repeated() -> None:
    four = pooled([latency(0.4), latency(0.6), latency(0.4), latency(0.6)], 0.03)
    one = pooled([latency(0.4)], 0.03)
    assert four.ratio == pytest.approx(math.sqrt(0.24))
    assert math.log(four.ratio_ci[1] / four.ratio) == pytest.approx(math.log(one.ratio_ci[1] / one.ratio) / 2.0)
    assert (four.occasions, four.blocks) == (4, 64)


def test_pooled_covers_the_true_ratio_when_occasions_drift() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = pooled([latency(0.5 * math.exp(value), 0.0196) for value in rng.normal(0.0, math.hypot(0.05, 0.01), 2)], 0.05)
        hits += found.ratio_ci[0] <= 0.5 <= found.ratio_ci[1]
    assert 0.92 <= hits / 400 <= 0.98
