"""Time a candidate and a reference in turns: randomised blocks inside fresh sessions, given as callables."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paretopress.errors import ConfigError, LatencyError

Times = npt.NDArray[np.float64]
Run = Callable[[], object]
Clock = Callable[[], int]
OpenPair = Callable[[], tuple[Run, Run]]

MIN_BLOCKS = 5
STABLE_SPREAD = 1.1


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """How much is measured.

    Attributes:
        sessions: fresh sessions of each model; a session's memory layout alone shifts its latency, so one is not enough.
        blocks: interleaved blocks of each model in each session.
        block_ns: what one block of the slower model should take; short, so that both models see the same machine state.
        min_runs, max_runs: bounds of the timed runs in a block.
        warmup_min_runs, warmup_min_ns, warmup_max_ns: a warm-up ends when it is stable and past both minima, or at the maximum;
            the minimum of runs holds in any case.
        session_max_ns: no block is begun in a session that has been measured for longer.
        rounds_max_ns: no further round is begun after it.
        settle_runs: untimed runs of a model before its turn in a block.
    """

    sessions: int = 4
    blocks: int = 4
    block_ns: int = 15_000_000
    min_runs: int = 2
    max_runs: int = 50
    warmup_min_runs: int = 3
    warmup_min_ns: int = 20_000_000
    warmup_max_ns: int = 300_000_000
    session_max_ns: int = 30_000_000_000
    rounds_max_ns: int = 20_000_000_000
    settle_runs: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least = 0 if name == "settle_runs" else 1
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, but got {name}={getattr(self, name)}")
        if self.sessions * self.blocks < MIN_BLOCKS:
            raise ConfigError(
                f"sessions * blocks >= {MIN_BLOCKS} must hold, but got sessions={self.sessions}, blocks={self.blocks}",
                "Fewer blocks give no interval.",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The timed runs of both models in one block: (runs,) float64, nanoseconds."""

    candidate: Times
    reference: Times


@dataclass(frozen=True, slots=True, eq=False)
class PairedSamples:
    """Everything that was timed: one tuple of blocks per pair of sessions."""

    sessions: tuple[tuple[Block, ...], ...]

    @property
    def blocks(self) -> int:
        """Return the number of blocks of each model."""
        return sum(len(blocks) for blocks in self.sessions)

    @property
    def runs(self) -> int:
        """Return the number of timed runs of each model."""
        return sum(len(block.candidate) for blocks in self.sessions for block in blocks)

    def pooled(self, other: PairedSamples) -> PairedSamples:
        """Return the sessions of both."""
        return PairedSamples(self.sessions + other.sessions)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector off inside the block, and leave it as it was found."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_up(run: Run, clock: Clock, rules: SamplingRules) -> float:
    """Run until the last runs differ by less than 10 %, and return their median in nanoseconds.

    Raises: LatencyError: the clock does not advance.
    """
    times: list[int] = []
    start = clock()
    while True:
        before = clock()
        run()
        after = clock()
        times.append(after - before)
        if len(times) < rules.warmup_min_runs:
            continue
        spent = after - start
        if spent <= 0:
            raise LatencyError(f"the clock must advance while a model runs, but got {spent} ns for {len(times)} runs")
        last = times[-rules.warmup_min_runs :]
        stable = max(last) <= STABLE_SPREAD * min(last)
        if spent >= rules.warmup_max_ns or (stable and spent >= rules.warmup_min_ns):
            return float(np.median(last))


def runs_per_block(slower_ns: float, rules: SamplingRules) -> int:
    """Return how many runs make a block of the slower model last about `rules.block_ns`, within the bounds."""
    wanted = round(rules.block_ns / max(slower_ns, 1.0))
    return min(max(wanted, rules.min_runs), rules.max_runs)


def _timed(run: Run, runs: int, clock: Clock, settle_runs: int) -> Times:
    for _ in range(settle_runs):
        run()
    times = np.empty(runs, dtype=np.float64)
    for i in range(runs):
        before = clock()
        run()
        times[i] = clock() - before
    return times


def _block(pair: tuple[Run, Run], runs: int, rng: np.random.Generator, clock: Clock, settle_runs: int) -> Block:
    candidate, reference = pair
    candidate_first = rng.random() < 0.5
    with collector_paused():
        if candidate_first:
            times = _timed(candidate, runs, clock, settle_runs)
            return Block(times, _timed(reference, runs, clock, settle_runs))
        times = _timed(reference, runs, clock, settle_runs)
        return Block(_timed(candidate, runs, clock, settle_runs), times)


def _session(candidate: Run, reference: Run, rng: np.random.Generator, clock: Clock, rules: SamplingRules) -> tuple[Block, ...]:
    slower_ns = max(warm_up(candidate, clock, rules), warm_up(reference, clock, rules))
    runs = runs_per_block(slower_ns, rules)
    deadline = clock() + rules.session_max_ns
    blocks: list[Block] = []
    while len(blocks) < rules.blocks and clock() < deadline:
        blocks.append(_block((candidate, reference), runs, rng, clock, rules.settle_runs))
    return tuple(blocks)


def sample_pair(open_pair: OpenPair, *, rng: np.random.Generator, clock: Clock, rules: SamplingRules) -> PairedSamples:
    """Time two models in turns and return every timed run.

    Args:
        open_pair: returns fresh (candidate, reference) callables, each of which runs one batch; called once per session.
        rng: draws which of the two goes first in each block.
        clock: nanoseconds.
    Raises: LatencyError: fewer than 5 blocks finished in the time allowed, or the clock stands still.
    Invariant: the garbage collector is off while a run is timed, and is left as it was found.
    """
    sessions: list[tuple[Block, ...]] = []
    for _ in range(rules.sessions):
        candidate, reference = open_pair()
        sessions.append(_session(candidate, reference, rng, clock, rules))
    samples = PairedSamples(tuple(sessions))
    if samples.blocks < MIN_BLOCKS:
        allowed_s = rules.sessions * rules.session_max_ns / 1e9
        raise LatencyError(
            f"at least {MIN_BLOCKS} blocks must finish within {allowed_s:g} s, but got blocks={samples.blocks}",
            "The model is too slow for this target; measure a smaller input or a faster machine.",
        )
    return samples
