"""Rounds of measurement on a machine whose state, noise and clock are simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError
from paretopress.targets.adaptive_measurement import measure_adaptively, settled, straddles
from paretopress.targets.sampling import Run, SamplingRules

BASELINE_MS = 8.0


class Simulation:
    """Two models of 3 and 5 ms with 2 % noise; `state` slows both, `opened` counts the sessions."""

    def __init__(self, seed: int, candidate_ms: float = 3.0, state: float = 1.0) -> None:
        self.now = 0
        self.opened = 0
        self.candidate_ms = candidate_ms
        self.state = state
        self.rng = np.random.default_rng(seed)

    def clock(self) -> int:
        return self.now

    def _model(self, duration_ms: float) -> Run:
        def run() -> None:
            self.now += round(duration_ms * 1e6 * self.state * np.exp(self.rng.normal(0, 0.02)))

        return run

    def pair(self) -> tuple[Run, Run]:
        self.opened += 1
        return self._model(self.candidate_ms), self._model(5.0)

    def measure(self, *, baseline_ms: float | None, limit_ms: float | None, max_rounds: int = 3) -> Latency:
        return measure_adaptively(
            self.pair,
            baseline_ms=baseline_ms,
            limit_ms=limit_ms,
            rng=np.random.default_rng(0),
            clock=self.clock,
            rules=SamplingRules(),
            max_rounds=max_rounds,
        )


def test_measure_adaptively_scales_the_ratio_when_a_baseline_is_given() -> None:
    latency = Simulation(1).measure(baseline_ms=BASELINE_MS, limit_ms=None)
    assert latency.ratio == pytest.approx(0.6, rel=0.02)
    assert latency.latency_ms == pytest.approx(latency.ratio * BASELINE_MS)
    assert latency.latency_ci_ms == pytest.approx(tuple(end * BASELINE_MS for end in latency.ratio_ci))
    assert latency.ratio_ci[0] <= 0.6 <= latency.ratio_ci[1]
    assert latency.raw_p50_ms == pytest.approx(3.0, rel=0.02)
    assert latency.baseline_raw_p50_ms == pytest.approx(5.0, rel=0.02)
    assert latency.raw_p90_ms > latency.raw_p50_ms
    assert (latency.blocks, latency.runs) == (16, 48)
    assert latency.duration_s == pytest.approx(0.5, rel=0.3)  # 48 runs of 3 and 5 ms and four warm-ups of 20 ms


def test_measure_adaptively_keeps_the_latency_when_the_machine_slows_down() -> None:
    quiet = Simulation(1).measure(baseline_ms=BASELINE_MS, limit_ms=None)
    busy = Simulation(2, state=1.4).measure(baseline_ms=BASELINE_MS, limit_ms=None)
    assert busy.raw_p50_ms == pytest.approx(1.4 * quiet.raw_p50_ms, rel=0.03)
    assert busy.latency_ms == pytest.approx(quiet.latency_ms, rel=0.02)


def test_measure_adaptively_returns_the_raw_p50_without_a_baseline() -> None:
    latency = Simulation(4, candidate_ms=5.0).measure(baseline_ms=None, limit_ms=None)
    assert latency.latency_ms == latency.raw_p50_ms == pytest.approx(5.0, rel=0.02)
    low, high = latency.latency_ci_ms
    assert 4.85 < low <= latency.latency_ms <= high < 5.15
    assert latency.ratio == pytest.approx(1.0, rel=0.02)
    assert latency.ratio_ci[0] <= 1.0 <= latency.ratio_ci[1]


@pytest.mark.parametrize(("limit_ms", "rounds"), [(None, 1), (2.0, 1), (9.0, 1), (4.8, 3)])
def test_measure_adaptively_repeats_when_the_limit_is_inside_the_interval(limit_ms: float | None, rounds: int) -> None:
    simulation = Simulation(1)
    latency = simulation.measure(baseline_ms=BASELINE_MS, limit_ms=limit_ms)
    assert simulation.opened == 4 * rounds
    assert latency.blocks == 16 * rounds


def test_measure_adaptively_stops_when_the_limit_leaves_the_interval() -> None:
    first = Simulation(2).measure(baseline_ms=BASELINE_MS, limit_ms=None)
    pooled = Simulation(2).measure(baseline_ms=BASELINE_MS, limit_ms=first.latency_ci_ms[0])
    assert pooled.blocks == 32
    assert not straddles(pooled, first.latency_ci_ms[0])


def test_measure_adaptively_stays_at_one_round_when_no_more_are_allowed() -> None:
    simulation = Simulation(1)
    simulation.measure(baseline_ms=BASELINE_MS, limit_ms=4.8, max_rounds=1)
    assert simulation.opened == 4


@pytest.mark.parametrize(("limit_ms", "inside"), [(3.9, False), (4.0, True), (4.5, True), (5.0, False), (None, False)])
def test_straddles_is_false_at_the_upper_end(limit_ms: float | None, inside: bool) -> None:
    latency = replace(Simulation(1).measure(baseline_ms=BASELINE_MS, limit_ms=None), latency_ci_ms=(4.0, 5.0))
    assert straddles(latency, limit_ms) is inside


@pytest.mark.parametrize(
    ("interval", "limit_ms", "done"),
    [
        ((0.585, 0.615), None, True),  # 2.5 % to either side
        ((0.57, 0.63), None, False),  # 5 %
        ((0.50, 0.70), 3.9, True),  # clearly over the limit: its width does not matter
        ((0.58, 0.62), 4.8, False),  # astride the limit
        ((0.57, 0.63), 9.0, False),  # clearly within, but wide
    ],
)
def test_settled_wants_a_clear_verdict_and_a_narrow_interval_when_not_over(
    interval: tuple[float, float], limit_ms: float | None, done: bool
) -> None:
    low, high = interval
    latency = Latency(4.8, (8 * low, 8 * high), 0.6, interval, 4.8, 5.0, 8.0, 16, 48, 0.5)
    assert settled(latency, limit_ms) is done


@pytest.mark.parametrize("baseline_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_measure_adaptively_raises_when_the_baseline_is_not_positive(baseline_ms: float) -> None:
    with pytest.raises(LatencyError, match="baseline_ms must be a positive number"):
        Simulation(1).measure(baseline_ms=baseline_ms, limit_ms=None)
