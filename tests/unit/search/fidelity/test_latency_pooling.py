from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from paretopress.core.outcome import Budget, Latency, Outcome, Rung, small_sample_factor
from paretopress.search.candidates import Bounds
from paretopress.search.fidelity.latency_pooling import drift, pooled


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


def test_pooled_is_of_the_file_itself_once_that_was_measured() -> None:
    of_another = replace(latency(0.5), alike=True)
    assert pooled([of_another], 0.03).alike
    assert not pooled([of_another, latency(0.5)], 0.03).alike


def test_pooled_covers_the_true_ratio_when_occasions_drift() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = pooled([latency(0.5 * math.exp(value), 0.0196) for value in rng.normal(0.0, math.hypot(0.05, 0.01), 2)], 0.05)
        hits += found.ratio_ci[0] <= 0.5 <= found.ratio_ci[1]
    assert 0.92 <= hits / 400 <= 0.98


def occasion(rng: np.random.Generator, drift_between: float, session_error: float, sessions: int = 4) -> Latency:
    """Return one occasion of a file that takes half of the baseline's time, with the t-interval that a measurement gives."""
    logs = rng.normal(math.log(0.5) + rng.normal(0.0, drift_between), session_error, sessions)
    half_width = 1.96 * small_sample_factor(sessions, 0.95) * float(logs.std(ddof=1)) / math.sqrt(sessions)
    return replace(latency(math.exp(float(logs.mean())), half_width), sessions=sessions)


@pytest.mark.parametrize("occasions", [1, 2, 4, 6])
@pytest.mark.parametrize(("drift_between", "session_error"), [(0.06, 0.02), (0.06, 0.06), (0.01, 0.06)])
def test_pooled_covers_the_truth_in_95_of_100_when_sessions_are_few(occasions: int, drift_between: float, session_error: float) -> None:
    rng, hits, files = np.random.default_rng(7), 0, 20
    for _ in range(60):
        measured = [[occasion(rng, drift_between, session_error) for _ in range(occasions)] for _ in range(files)]
        others = [[occasion(rng, drift_between, session_error) for _ in range(4)] for _ in range(15)]
        between = drift([*measured, *others])
        intervals = [pooled(latencies, between).ratio_ci for latencies in measured]
        hits += sum(low <= 0.5 <= high for low, high in intervals)
    assert 0.925 <= hits / (60 * files) <= 0.98


def test_pooled_is_the_interval_of_the_occasion_when_nothing_drifts() -> None:
    measured = replace(latency(0.5, 0.0312), sessions=4)  # of 4 sessions: 1.96 * 1.62 standard errors, 1.62 the factor of 3 degrees
    assert pooled([measured], 0.0).ratio_ci == pytest.approx(measured.ratio_ci)
    two = pooled([measured, measured], 0.0)
    # 6 degrees now: the factor falls to 1.25 and the error by the root of 2
    shrunk = small_sample_factor(7, 0.95) / small_sample_factor(4, 0.95) / math.sqrt(2.0)
    assert math.log(two.ratio_ci[1] / two.ratio) == pytest.approx(0.0312 * shrunk)


def test_drift_takes_off_the_plain_error_when_sessions_are_few() -> None:
    half_width = 1.96 * 0.01 * small_sample_factor(4, 0.95)
    files = [[replace(latency(math.exp(sign * 0.1), half_width), sessions=4) for sign in (-1, 1)]] * 2
    assert drift(files) == pytest.approx(math.sqrt((4 * 0.06**2 + (4 * 0.01 - 2 * 1e-4)) / (4 + 2)))


def test_on_scale_widens_by_the_baselines_interval_for_a_bound_in_ms() -> None:
    ends = (2.0 * math.exp(-0.04), 2.0 * math.exp(0.04))
    measured = latency(0.5, 0.03)
    in_ms, as_ratio = (Bounds(budget, 2.0, 90.0, baseline_ci_ms=ends) for budget in (Budget(latency_ms=1.05), Budget(speedup=2.0)))
    assert as_ratio.on_scale(measured) == measured
    widened = in_ms.on_scale(measured)
    assert widened.latency_ci_ms == pytest.approx((math.exp(-0.05), math.exp(0.05)))  # 3 and 4 make 5
    assert widened.ratio_ci == measured.ratio_ci
    again = pooled([widened, widened], 0.0)
    assert math.log(again.ratio_ci[1] / 0.5) == pytest.approx(0.03 / math.sqrt(2.0))
    assert math.log(again.latency_ci_ms[1]) == pytest.approx(math.hypot(0.03 / math.sqrt(2.0), 0.04))  # occasions do not narrow that one
    assert Latency.from_json(widened.to_json()) == widened


def test_constraints_count_the_baselines_interval_for_a_bound_in_ms() -> None:
    ends = (2.0 * math.exp(-0.04), 2.0 * math.exp(0.04))
    bounds = Bounds(Budget(latency_ms=1.04), 2.0, 90.0, baseline_ci_ms=ends)
    measured = latency(0.5, 0.03)  # up to 1.0305 ms by its own interval
    found = Outcome(Rung.FINAL, 89.0, 1, 1, measured, 1, "", "")
    assert bounds.feasible(found)
    assert not bounds.feasible(replace(found, latency=bounds.on_scale(measured)))
