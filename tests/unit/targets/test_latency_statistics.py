"""Ratios and intervals from hand-made and seeded synthetic times."""

from __future__ import annotations

import numpy as np
import pytest

from paretopress.core.outcome import small_sample_factor
from paretopress.errors import LatencyError
from paretopress.targets.sampling import Block, PairedSamples
from paretopress.targets.statistics import block_medians, median_interval, ratio_interval


def _samples(pairs: list[list[tuple[list[float], list[float]]]]) -> PairedSamples:
    return PairedSamples(tuple(tuple(Block(np.array(c), np.array(r)) for c, r in session) for session in pairs))


def _noisy(rng: np.random.Generator, ratio: float, drift: float = 0.0) -> PairedSamples:
    """Two sessions of eight blocks: 2 % noise per run, 1 % per block, and a machine state that multiplies both models."""
    sessions = []
    for _ in range(2):
        blocks = []
        for i in range(8):
            state = 1e6 * (1.0 + drift * i)
            candidate = ratio * state * np.exp(rng.normal(0, 0.01) + rng.normal(0, 0.02, 15))
            reference = state * np.exp(rng.normal(0, 0.01) + rng.normal(0, 0.02, 15))
            blocks.append(Block(candidate, reference))
        sessions.append(tuple(blocks))
    return PairedSamples(tuple(sessions))


def test_ratio_interval_returns_the_median_of_block_ratios() -> None:
    # block ratios 0.5, 0.6 and 2.0; the spike of 900 in the first block does not move its median
    samples = _samples([[([5, 5, 900], [10, 10, 10]), ([6, 6, 6], [10, 10, 10])], [([20, 20, 20], [10, 10, 10])]])
    ratio, (low, high) = ratio_interval(samples, np.random.default_rng(0))
    assert ratio == pytest.approx(0.6)
    assert 0.0 < low <= 0.6 <= high


def test_ratio_interval_is_unmoved_when_the_machine_drifts() -> None:
    still, drifting = (_noisy(np.random.default_rng(3), 0.7, drift) for drift in (0.0, 0.5))
    ratio, interval = ratio_interval(drifting, np.random.default_rng(0))
    still_ratio, still_interval = ratio_interval(still, np.random.default_rng(0))
    assert ratio == pytest.approx(still_ratio)
    assert interval == pytest.approx(still_interval)
    assert np.median(np.concatenate(block_medians(drifting)[0])) > 2.0 * np.median(np.concatenate(block_medians(still)[0]))


def test_ratio_interval_covers_the_true_ratio_when_noise_is_seeded() -> None:
    rng = np.random.default_rng(11)
    intervals = [ratio_interval(_noisy(rng, 0.62, 0.1), rng) for _ in range(100)]
    covered = sum(low <= 0.62 <= high for _, (low, high) in intervals)
    assert covered >= 88
    assert all(ratio == pytest.approx(0.62, rel=0.03) for ratio, _ in intervals)
    assert max(high - low for _, (low, high) in intervals) < 0.3 * 0.62  # two sessions leave much open


def test_ratio_interval_repeats_when_the_seed_is_the_same() -> None:
    samples = _noisy(np.random.default_rng(5), 0.9)
    assert ratio_interval(samples, np.random.default_rng(1)) == ratio_interval(samples, np.random.default_rng(1))


def test_ratio_interval_narrows_when_the_level_is_lower() -> None:
    samples = _noisy(np.random.default_rng(5), 0.9)
    _, (low, high) = ratio_interval(samples, np.random.default_rng(1))
    _, (low_half, high_half) = ratio_interval(samples, np.random.default_rng(1), level=0.5)
    assert low < low_half < high_half < high


def test_median_interval_spans_the_sessions_when_one_of_three_deviates() -> None:
    # resampling single blocks would never give 1.2 the majority (20 of 60); resampling sessions does in 7 of 27 draws
    sessions = [np.full(20, 1.0), np.full(20, 1.0), np.full(20, 1.2)]
    middle, (low, high) = median_interval(sessions, np.random.default_rng(0))
    assert (middle, low) == (1.0, 1.0)
    assert high == pytest.approx(1.2 ** small_sample_factor(3, 0.95))


def test_median_interval_ignores_padding_when_session_lengths_differ() -> None:
    sessions = [np.array([3.0]), np.full(7, 2.0)]
    middle, interval = median_interval(sessions, np.random.default_rng(0))
    assert middle == 2.0
    assert interval == pytest.approx(
        (2.0, 2.0 * 1.5 ** small_sample_factor(2, 0.95))
    )  # the short session is drawn twice in a quarter of the draws


# t(0.975, n - 1) / 1.960, with t from a table: 3.182, 2.201, 2.045
@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (4, 1.623), (12, 1.123), (30, 1.043)])
def test_small_sample_factor_matches_students_t_when_sessions_are_few(count: int, expected: float) -> None:
    assert small_sample_factor(count, 0.95) == pytest.approx(expected, rel=0.01)


def test_median_interval_covers_the_truth_when_four_sessions_deviate() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        sessions = [np.exp(rng.normal(0.0, 0.01) + rng.normal(0.0, 0.01, 4)) for _ in range(4)]
        _, (low, high) = median_interval(sessions, rng)
        hits += low <= 1.0 <= high
    assert 0.92 <= hits / 300 <= 0.99


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -5.0])
@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_ratio_interval_raises_when_a_time_is_not_positive(bad: float, side: str) -> None:
    broken, whole = [10.0, bad, 10.0], [10.0, 10.0, 10.0]
    block = (broken, whole) if side == "candidate" else (whole, broken)
    with pytest.raises(LatencyError, match="positive number of nanoseconds"):
        ratio_interval(_samples([[(whole, whole), block]]), np.random.default_rng(0))


def test_ratio_interval_raises_when_no_block_was_timed() -> None:
    with pytest.raises(LatencyError, match="blocks=0"):
        ratio_interval(PairedSamples(((), ())), np.random.default_rng(0))
