"""The measuring protocol against a fake clock."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from paretopress.errors import ConfigError, LatencyError
from paretopress.targets.sampling import Run, SamplingRules, collector_paused, runs_per_block, sample_pair, warm_up

MS = 1_000_000


class Machine:
    """A clock that only models advance; `calls` is the order in which they ran."""

    def __init__(self) -> None:
        self.now = 0
        self.opened = 0
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.now

    def model(self, name: str, duration_ns: int) -> Run:
        def run() -> None:
            self.calls.append(name)
            self.now += duration_ns

        return run

    def pair(self, candidate_ns: int, reference_ns: int) -> tuple[Run, Run]:
        self.opened += 1
        return self.model("candidate", candidate_ns), self.model("reference", reference_ns)


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize(("slower_ms", "runs"), [(1.0, 15), (5.0, 3), (40.0, 2), (0.01, 50)])
def test_runs_per_block_fills_fifteen_ms_when_within_bounds(slower_ms: float, runs: int) -> None:
    assert runs_per_block(slower_ms * MS, SamplingRules()) == runs


@pytest.mark.parametrize(("run_ms", "runs"), [(1, 20), (10, 3), (1000, 3)])
def test_warm_up_ends_at_its_minima_when_runs_are_stable(run_ms: int, runs: int) -> None:
    machine = Machine()
    assert warm_up(machine.model("x", run_ms * MS), machine.clock, SamplingRules()) == run_ms * MS
    assert len(machine.calls) == runs


def test_warm_up_goes_on_to_its_maximum_when_runs_are_unstable() -> None:
    machine = Machine()

    def unstable() -> None:
        machine.calls.append("x")
        machine.now += MS if len(machine.calls) % 2 else 2 * MS

    warm_up(unstable, machine.clock, SamplingRules())
    assert len(machine.calls) == 200  # 1.5 ms each on average, 300 ms in all


def test_warm_up_waits_for_the_drop_when_the_first_runs_are_slow() -> None:
    machine = Machine()

    def settling() -> None:
        machine.calls.append("x")
        machine.now += [30, 20, 12, 10, 10, 10][len(machine.calls) - 1] * MS

    assert warm_up(settling, machine.clock, SamplingRules()) == 10 * MS
    assert len(machine.calls) == 6


def test_warm_up_raises_when_the_clock_stands_still() -> None:
    with pytest.raises(LatencyError, match="clock must advance"):
        warm_up(lambda: None, lambda: 7, SamplingRules())


def test_sample_pair_opens_fresh_sessions_when_there_are_four() -> None:
    machine = Machine()
    samples = sample_pair(lambda: machine.pair(3 * MS, 5 * MS), rng=np.random.default_rng(0), clock=machine.clock, rules=SamplingRules())
    assert machine.opened == 4
    assert [len(blocks) for blocks in samples.sessions] == [4, 4, 4, 4]
    assert samples.blocks == 16
    assert samples.runs == 16 * 3  # 15 ms / 5 ms, the slower model
    block = samples.sessions[3][3]
    assert block.candidate.tolist() == [3 * MS] * 3
    assert block.reference.tolist() == [5 * MS] * 3


def _orders(seed: int) -> list[str]:
    machine = Machine()
    rules = SamplingRules(sessions=1, blocks=20)
    sample_pair(lambda: machine.pair(5 * MS, 5 * MS), rng=np.random.default_rng(seed), clock=machine.clock, rules=rules)
    timed = machine.calls[-20 * 6 :]
    blocks = [timed[i : i + 6] for i in range(0, len(timed), 6)]
    assert all(len(set(block[:3])) == 1 and len(set(block[3:])) == 1 and set(block) == {"candidate", "reference"} for block in blocks)
    return [block[0] for block in blocks]


def test_sample_pair_mixes_the_order_when_blocks_are_many() -> None:
    orders = _orders(1)
    assert 4 <= orders.count("candidate") <= 16
    assert orders == _orders(1)
    assert orders != _orders(2)


def test_sample_pair_stops_early_when_the_time_is_over() -> None:
    machine = Machine()
    rules = SamplingRules(sessions=2, blocks=8, session_max_ns=1000 * MS)
    samples = sample_pair(lambda: machine.pair(100 * MS, 100 * MS), rng=np.random.default_rng(0), clock=machine.clock, rules=rules)
    assert [len(blocks) for blocks in samples.sessions] == [3, 3]  # 400 ms each: begun at 0, 400 and 800


def test_sample_pair_raises_when_fewer_than_five_blocks_finish() -> None:
    machine = Machine()
    rules = SamplingRules(sessions=2, blocks=8, session_max_ns=500 * MS)
    with pytest.raises(LatencyError, match="at least 5 blocks must finish within 1 s, but got blocks=4"):
        sample_pair(lambda: machine.pair(100 * MS, 100 * MS), rng=np.random.default_rng(0), clock=machine.clock, rules=rules)


def test_sample_pair_pauses_the_collector_when_runs_are_timed(collector: None) -> None:
    machine = Machine()
    seen: list[bool] = []

    def watching() -> None:
        seen.append(gc.isenabled())
        machine.now += 5 * MS

    rules = SamplingRules(sessions=1, blocks=5)
    sample_pair(lambda: (watching, watching), rng=np.random.default_rng(0), clock=machine.clock, rules=rules)
    assert not any(seen[-5 * 6 :])
    assert gc.isenabled()


def test_collector_paused_restores_it_when_a_run_fails(collector: None) -> None:
    with pytest.raises(ValueError, match="broken"), collector_paused():
        raise ValueError("broken")
    assert gc.isenabled()


def test_collector_paused_leaves_it_off_when_it_was_off(collector: None) -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_pooled_keeps_the_sessions_of_both_when_rounds_are_added() -> None:
    machine = Machine()
    rules = SamplingRules(sessions=1, blocks=5)
    one = sample_pair(lambda: machine.pair(MS, MS), rng=np.random.default_rng(0), clock=machine.clock, rules=rules)
    both = one.pooled(one)
    assert (len(both.sessions), both.blocks, both.runs) == (2, 10, 150)


@pytest.mark.parametrize(("sessions", "blocks"), [(1, 4), (0, 8), (2, 0)])
def test_sampling_rules_raise_when_blocks_are_too_few(sessions: int, blocks: int) -> None:
    with pytest.raises(ConfigError):
        SamplingRules(sessions=sessions, blocks=blocks)


def test_sample_pair_settles_each_model_before_its_turn_when_told() -> None:
    machine = Machine()
    rules = SamplingRules(sessions=1, blocks=5, settle_runs=4)
    samples = sample_pair(lambda: machine.pair(5 * MS, 5 * MS), rng=np.random.default_rng(0), clock=machine.clock, rules=rules)
    assert samples.runs == 15  # 5 blocks of 3
    # warm-up: 4 runs of 5 ms reach its 20 ms
    assert machine.calls.count("candidate") == machine.calls.count("reference") == 4 + 5 * (4 + 3)


def test_sampling_rules_raise_when_settle_runs_are_negative() -> None:
    with pytest.raises(ConfigError, match="settle_runs must be at least 0"):
        SamplingRules(settle_runs=-1)
