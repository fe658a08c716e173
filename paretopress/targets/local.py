"""This host as a target: ONNX Runtime sessions in this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from paretopress.core.outcome import Latency
from paretopress.errors import ConfigError, LatencyError, first_line
from paretopress.targets.adaptive_measurement import measure_in_rounds
from paretopress.targets.environment import environment
from paretopress.targets.lock import sole_measurement
from paretopress.targets.machine_state import cpu_times, disturbance
from paretopress.targets.sampling import Run, SamplingRules
from paretopress.targets.target import Feed, OpenFile

PROVIDERS = ("CPUExecutionProvider",)
LOG_ERRORS_ONLY = 3
BLOCKS, BASELINE_BLOCKS = 4, 8
SETTLE_RUNS = 3
_FLOATS: dict[str, npt.DTypeLike] = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_WHOLE: dict[str, npt.DTypeLike] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session runs: `threads` inside one operator; `inter_op` > 1 runs operators side by side; `cores` it is pinned to, if any."""

    threads: int = 1
    inter_op: int = 1
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("threads", "inter_op"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but got {name}={getattr(self, name)}")
        if self.cores and len(self.cores) < self.threads:
            raise ConfigError(f"pinned cores must be at least as many as threads, but got cores={self.cores}, threads={self.threads}")

    def conditions(self) -> dict[str, Any]:
        """Return what a figure measured under these settings stands for, as JSON values: `threads`, `pinned` cores, all of `session`."""
        options = {"batch": 1, "inter_op": self.inter_op, "providers": list(PROVIDERS), "graph_optimisation": "all"}
        return {"threads": self.threads, "pinned": list(self.cores), "session": options}

    @property
    def has_workers(self) -> bool:
        """Return whether a session has threads of its own beside the one that calls it."""
        return self.threads > 1 or self.inter_op > 1


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


def open_session(
    path: Path,
    settings: SessionSettings,
    *,
    profile_prefix: Path | None = None,
    optimised: Path | None = None,
    beside_others: bool = False,
    timed: bool = True,
) -> ort.InferenceSession:
    """Return a new session on the CPU provider.

    With `profile_prefix` it writes a profile to files of that name; with `optimised` it writes the graph that it runs there. The threads
    of one that is not `timed` sleep while they wait: spinning takes cores from others, and on two cores it made scoring slower, by 20 % on
    an idle machine and beside one busy process. One that is `beside_others` leaves them the memory between two runs as well.
    Raises: LatencyError: the runtime does not load the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = settings.inter_op
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if settings.inter_op > 1 else ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = LOG_ERRORS_ONLY
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if beside_others:
        options.enable_cpu_mem_arena = False  # an arena keeps what the largest run took: for 128 photos, gigabytes
    if beside_others or not timed:
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=list(PROVIDERS))
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise LatencyError(f"ONNX Runtime must load the file, but got: {first_line(error)} at {path.name}") from error


def random_feed(source: Path | ort.InferenceSession, rng: np.random.Generator, rows: Mapping[str, int] | None = None) -> Feed:
    """Return random arrays for every input of a file or session; dynamic dimensions become 1.

    Floats are standard normal. Whole numbers are below `rows`, input -> rows of the table that it is looked up in, and 1 for an input
    that is not named there, as a mask that leaves everything.
    Raises: LatencyError: an input is neither, or the file does not load.
    """
    session = open_session(source, SessionSettings()) if isinstance(source, Path) else source
    feed: dict[str, npt.NDArray[Any]] = {}
    for node in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in node.shape]
        if node.type in _FLOATS:
            feed[node.name] = rng.standard_normal(shape, dtype=np.float32).astype(_FLOATS[node.type])
        elif node.type in _WHOLE:
            bound = (rows or {}).get(node.name)
            drawn = np.ones(shape) if bound is None else rng.integers(bound, size=shape)
            feed[node.name] = drawn.astype(_WHOLE[node.type])
        else:
            raise LatencyError(
                f"a random feed needs inputs of floats or whole numbers, but got {node.type} at {node.name}", "Pass a feed of real inputs."
            )
    return feed


def run_session(session: ort.InferenceSession, feed: dict[str, npt.NDArray[Any]], file: str) -> list[npt.NDArray[Any]]:
    """Return the outputs of one run, in the order of the file's outputs. Raises LatencyError: the feed fails."""
    try:
        return list(session.run(None, feed))
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise LatencyError(f"a session must run its feed, but got: {first_line(error)} at {file}") from error


def open_file(session: ort.InferenceSession, file: str) -> OpenFile:
    """Return a session as a file that is open on a target; `file` is its name in errors."""
    inputs = tuple((node.name, tuple(node.shape)) for node in session.get_inputs())
    return OpenFile(inputs, lambda feed: run_session(session, dict(feed), file))


def _runner(path: Path, settings: SessionSettings, feed: Feed) -> Run:
    session = open_session(path, settings)
    inputs = dict(feed)
    return lambda: run_session(session, inputs, path.name)


class _Turns:
    """Models of which only the one whose turn it is has a session.

    The workers of an idle session spin on the cores of the one that is timed: on 2 cores, a chain of convolutions with 2 threads took
    3.7 to 6.9 ms beside an idle session, and 1.4 ms in turns or in a plain loop.
    """

    def __init__(self, settings: SessionSettings, feed: Feed) -> None:
        self._settings, self._feed = settings, feed
        self._run: Run | None = None
        self._turn: object = None

    def runner(self, path: Path) -> Run:
        turn = object()

        def run() -> None:
            if self._turn is not turn or self._run is None:
                self._run = None  # closes the session of the other before this one opens
                self._run, self._turn = _runner(path, self._settings, self._feed), turn
            self._run()

        return run


def _open_pair(candidate: Path, reference: Path, settings: SessionSettings, feed: Feed) -> tuple[Run, Run]:
    if settings.has_workers:
        turns = _Turns(settings, feed)
        return turns.runner(candidate), turns.runner(reference)
    return _runner(candidate, settings, feed), _runner(reference, settings, feed)


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
        latency = measure_in_rounds(
            partial(_open_pair, candidate, reference, settings, feed),
            baseline_ms=baseline_ms,
            limit_ms=limit_ms,
            rng=rng,
            clock=time.perf_counter_ns,
            rules=SamplingRules(blocks=blocks, settle_runs=SETTLE_RUNS if settings.has_workers else 0),
            max_rounds=max_rounds,
        )
    meanwhile = disturbance(before, cpu_times())
    return replace(latency, foreign_cores=meanwhile.foreign_cores, throttled=meanwhile.throttled)


def measure_baseline(
    path: Path, *, settings: SessionSettings, feed: Feed, rng: np.random.Generator, blocks: int = BASELINE_BLOCKS, max_rounds: int = 3
) -> Latency:
    """Return the latency of the baseline: its raw p50, and the ratio it measures against itself, with more blocks than a candidate.

    Raises: LatencyError: a session failed, or fewer than 5 blocks finished.
    """
    return measure(path, path, baseline_ms=None, limit_ms=None, settings=settings, feed=feed, rng=rng, blocks=blocks, max_rounds=max_rounds)


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """This host; implements `Target`. One measurement runs at a time on it, see `sole_measurement`."""

    settings: SessionSettings = field(default_factory=SessionSettings)
    blocks: int = BLOCKS
    baseline_blocks: int = BASELINE_BLOCKS
    max_rounds: int = 3

    @property
    def name(self) -> str:
        """The target's name."""
        return "local"

    def environment(self) -> dict[str, Any]:
        """Return what this host is; see `targets.environment`."""
        return environment() | self.settings.conditions()

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs of one run of a file, in the order of its outputs. Raises LatencyError: the file or the feed fails."""
        return run_session(open_session(path, self.settings), dict(feed), path.name)

    @contextmanager
    def opened(self, path: Path, *, beside_others: bool = False) -> Iterator[OpenFile]:
        """Yield a file in one session; see `Target.opened`."""
        yield open_file(open_session(path, self.settings, beside_others=beside_others), path.name)

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
            return measure(
                candidate,
                reference,
                baseline_ms=baseline_ms,
                limit_ms=limit_ms,
                settings=self.settings,
                feed=feed,
                rng=rng,
                blocks=self.blocks,
                max_rounds=self.max_rounds,
            )

    def measure_baseline(self, path: Path, *, feed: Feed, rng: np.random.Generator) -> Latency:
        """Return the latency of the baseline on this host; see `measure_baseline`."""
        with sole_measurement():
            return measure_baseline(
                path, settings=self.settings, feed=feed, rng=rng, blocks=self.baseline_blocks, max_rounds=self.max_rounds
            )

    def close(self) -> None:
        """Do nothing: no session outlives its measurement."""
