"""This host as a target: sessions of a runtime in this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.core.resampling import fitted_feed
from paretopress.errors import ConfigError, LatencyError
from paretopress.runtimes.onnx_runtime import ONNX_RUNTIME
from paretopress.runtimes.runtime import OpenFile, Runtime, SessionSettings
from paretopress.targets.adaptive_measurement import measure_adaptively
from paretopress.targets.environment import environment
from paretopress.targets.lock import sole_measurement
from paretopress.targets.machine_state import cpu_times, disturbance
from paretopress.targets.sampling import Run, SamplingRules

BLOCKS, BASELINE_BLOCKS = 4, 8
SETTLE_RUNS = 3


@contextmanager
def pinned(cores: tuple[int, ...]) -> Iterator[None]:
    """Keep this thread, and the threads that sessions start inside the block, on some cores; all cores if none are named.

    Raises: ConfigError: a core does not exist, or the system cannot pin.
    """
    if not cores:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"pinned cores need Linux, but got cores={cores} on {sys.platform}", "Leave them out.")
    before = os.sched_getaffinity(0)
    if not set(cores) <= before:
        raise ConfigError(f"pinned cores must be among {sorted(before)}, but got cores={cores}")
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _runner(runtime: Runtime, path: Path, settings: SessionSettings, feed: Feed) -> Run:
    opened = runtime.open(path, settings)
    inputs = fitted_feed(feed, opened.inputs)
    return lambda: opened.run(inputs)


class _Turns:
    """Models of which only the one whose turn it is has a session.

    The workers of an idle session spin on the cores of the one that is timed: on 2 cores, a chain of convolutions with 2 threads took
    3.7 to 6.9 ms beside an idle session, and 1.4 ms in turns or in a plain loop.
    """

    def __init__(self, runtime: Runtime, settings: SessionSettings, feed: Feed) -> None:
        self._runtime, self._settings, self._feed = runtime, settings, feed
        self._run: Run | None = None
        self._turn: object = None

    def runner(self, path: Path) -> Run:
        turn = object()

        def run() -> None:
            if self._turn is not turn or self._run is None:
                self._run = None  # closes the session of the other before this one opens
                self._run, self._turn = _runner(self._runtime, path, self._settings, self._feed), turn
            self._run()

        return run


def _open_pair(runtime: Runtime, candidate: Path, reference: Path, settings: SessionSettings, feed: Feed) -> tuple[Run, Run]:
    if settings.has_workers:
        turns = _Turns(runtime, settings, feed)
        return turns.runner(candidate), turns.runner(reference)
    return _runner(runtime, candidate, settings, feed), _runner(runtime, reference, settings, feed)


def measure(
    candidate: Path,
    reference: Path,
    *,
    baseline_ms: float | None,
    limit_ms: float | None,
    settings: SessionSettings,
    feed: Feed,
    rng: np.random.Generator,
    blocks: int = BLOCKS,
    max_rounds: int = 3,
    runtime: Runtime = ONNX_RUNTIME,
) -> Latency:
    """Return the latency of one ONNX file, measured in turns with the baseline file on this host.

    Args:
        baseline_ms: what the reference takes on the run's scale; None if the candidate is the baseline itself.
        limit_ms: while it lies inside the interval, or the interval is wide, another round is measured and pooled, up to `max_rounds`.
        feed: input name -> array of batch 1, e.g. (1, C, H, W) float32.
        blocks: blocks of each model in each of the sessions of a round.
    Returns: Latency in milliseconds per batch, with a 95 % confidence interval.
    Raises: LatencyError: a session failed, or fewer than 5 blocks finished, or the baseline is measured against another file.
    Source: Georges et al., OOPSLA 2007, section 3.2 (several invocations, not one). Invariant: feed is never mutated.
    """
    if baseline_ms is None and candidate != reference:
        raise LatencyError(f"the baseline must be measured against itself, but got reference={reference.name} at {candidate.name}")
    before = cpu_times()
    with pinned(settings.cores):
        latency = measure_adaptively(
            partial(_open_pair, runtime, candidate, reference, settings, feed),
            baseline_ms=baseline_ms,
            limit_ms=limit_ms,
            rng=rng,
            clock=time.perf_counter_ns,
            rules=SamplingRules(blocks=blocks, settle_runs=SETTLE_RUNS if settings.has_workers else 0),
            max_rounds=max_rounds,
        )
    meanwhile = disturbance(before, cpu_times())
    return replace(latency, foreign_cores=meanwhile.foreign_cores, throttled=meanwhile.throttled)


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """This host; implements `Target`. One measurement runs at a time on it, see `sole_measurement`."""

    settings: SessionSettings = field(default_factory=SessionSettings)
    blocks: int = BLOCKS
    baseline_blocks: int = BASELINE_BLOCKS
    max_rounds: int = 3
    runtime: Runtime = ONNX_RUNTIME

    def to_json(self) -> dict[str, Any]:
        """Return how it measures as a JSON object: settings, blocks and rounds, without the runtime."""
        rounds = {"blocks": self.blocks, "baseline_blocks": self.baseline_blocks, "max_rounds": self.max_rounds}
        return {"settings": asdict(self.settings), **rounds}

    @property
    def name(self) -> str:
        """The target's name."""
        return "local"

    def environment(self) -> dict[str, Any]:
        """Return what this host is; see `targets.environment`."""
        return environment() | self.runtime.conditions(self.settings)

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs of one run of a file, in the order of its outputs. Raises LatencyError: the file or the feed fails."""
        opened = self.runtime.open(path, self.settings)
        return opened.run(fitted_feed(feed, opened.inputs))

    @contextmanager
    def opened(self, path: Path, *, beside_others: bool = False) -> Iterator[OpenFile]:
        """Yield a file in one session; see `Target.opened`."""
        yield self.runtime.open(path, self.settings, beside_others=beside_others)

    def measure(
        self,
        candidate: Path,
        reference: Path,
        *,
        baseline_ms: float | None,
        limit_ms: float | None,
        feed: Feed,
        rng: np.random.Generator,
    ) -> Latency:
        """Return the latency of `candidate` on this host; see `measure`."""
        with sole_measurement():
            return self._measure(candidate, reference, baseline_ms=baseline_ms, limit_ms=limit_ms, feed=feed, rng=rng, blocks=self.blocks)

    def measure_baseline(self, path: Path, *, feed: Feed, rng: np.random.Generator) -> Latency:
        """Return the latency of the baseline on this host: its raw p50, and its ratio to itself, with more blocks than a candidate."""
        with sole_measurement():
            return self._measure(path, path, baseline_ms=None, limit_ms=None, feed=feed, rng=rng, blocks=self.baseline_blocks)

    @property
    def _measure(self) -> Callable[..., Latency]:
        return partial(measure, settings=self.settings, max_rounds=self.max_rounds, runtime=self.runtime)

    def close(self) -> None:
        """Do nothing: no session outlives its measurement."""
