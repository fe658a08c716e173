"""Trace of a session: the time of every node by ONNX Runtime's profiler, and the unprofiled model's latency beside it."""

from __future__ import annotations

import json
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretopress.core.arrays import Feed
from paretopress.errors import LatencyError
from paretopress.runtimes.onnx_runtime import open_session, run_session
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.sampling import collector_paused

WARMUP_RUNS = 5
BLOCK_RUNS = 10
EVENT_SUFFIX = "_kernel_time"
US_PER_MS, NS_PER_MS = 1e3, 1e6


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node of the optimised graph.

    Attributes:
        name: as the runtime shows it; an unnamed node is shown as its operator and its index.
        index: the runtime's number; keeps nodes apart that the optimiser gave one name.
        latency_ms: as the profiler shows it, whole microseconds averaged over the runs of ordinary length.
        shape, dtype: of the first output, e.g. (1, 64, 8, 8) and "float"; () and "" where the profiler shows none.
        tensors: inputs and outputs that the profiler wrote down while the node's clock ran.
    """

    name: str
    op: str
    index: str
    latency_ms: float
    shape: tuple[int, ...] = ()
    dtype: str = ""
    tensors: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """The nodes in the order of execution; `whole_ms` is the p50 of the unprofiled model, its runs in turns with the profiled ones."""

    nodes: tuple[NodeTime, ...]
    whole_ms: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A file to trace; `feed` maps input names to arrays, and the runtime writes the graph that it runs to `optimised` if that is given."""

    path: Path
    feed: Feed
    optimised: Path | None = None


def trace_in_turns(subjects: Sequence[Subject], *, settings: SessionSettings, runs: int) -> list[Trace]:
    """Return what the nodes of each file take, and what each model takes without the profiler.

    Blocks of all files and of both kinds take turns, so that they see the same states of the machine.

    Args:
        runs: timed runs of each file with the profiler, and as many without.
    Raises: LatencyError: a session failed, or no node of a file took any time.
    Invariant: the profiles are written to a temporary folder that is deleted.
    """
    if runs < 1:
        raise LatencyError(f"runs >= 1 must hold, but got runs={runs}")
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, ExitStack() as stack:
        pairs = []
        for number, subject in enumerate(subjects):
            pairs.append(_Pair(subject, settings, Path(folder, f"profile{number}")))
            stack.callback(pairs[-1].end)
        with collector_paused():
            for pair in pairs:
                pair.run(WARMUP_RUNS)
            for done in range(0, runs, BLOCK_RUNS):
                for pair in pairs:
                    pair.run(min(BLOCK_RUNS, runs - done))
        return [pair.trace() for pair in pairs]


class _Pair:
    """A profiled and a plain session of one file."""

    def __init__(self, subject: Subject, settings: SessionSettings, prefix: Path) -> None:
        self._file, self._inputs = subject.path.name, dict(subject.feed)
        self._plain = open_session(subject.path, settings)
        self._profiled = open_session(subject.path, settings, profile_prefix=prefix, optimised=subject.optimised)
        self._times_ns: list[int] = []
        self._written: Path | None = None

    def run(self, runs: int) -> None:
        for _ in range(runs):
            run_session(self._profiled, self._inputs, self._file)
        for _ in range(runs):
            before = time.perf_counter_ns()
            run_session(self._plain, self._inputs, self._file)
            self._times_ns.append(time.perf_counter_ns() - before)

    def end(self) -> Path:
        """Return the file of the profile; a session that nobody ends writes it when it is collected, wherever that is by then."""
        if self._written is None:
            self._written = Path(self._profiled.end_profiling())
        return self._written

    def trace(self) -> Trace:
        nodes = _node_times(json.loads(self.end().read_text()))
        if not any(node.latency_ms > 0.0 for node in nodes):
            raise LatencyError(f"the profiled nodes must take time, but got {len(nodes)} nodes and 0 us at {self._file}")
        return Trace(nodes, float(np.median(self._times_ns[WARMUP_RUNS:])) / NS_PER_MS)


def _node_times(events: Sequence[dict[str, Any]]) -> tuple[NodeTime, ...]:
    """Return the mean of each node over the runs whose whole time lies in the middle half.

    A run that was interrupted would spread its delay over its nodes; a median per node would know whole microseconds alone.
    """
    whole = sorted((event["ts"], event["dur"]) for event in events if event["cat"] == "Session" and event["name"] == "model_run")
    timed = whole[WARMUP_RUNS:]
    by_length = sorted(range(len(timed)), key=lambda run: timed[run][1])
    ordinary = frozenset(by_length[len(timed) // 4 : len(timed) - len(timed) // 4])
    starts = [start for start, _ in timed]
    spent_us: dict[tuple[str, str, str], int] = {}
    described: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: int(event.get("ts", 0))):
        if event["cat"] != "Node" or not event["name"].endswith(EVENT_SUFFIX) or bisect_right(starts, event["ts"]) - 1 not in ordinary:
            continue
        args = event["args"]
        key = (event["name"].removesuffix(EVENT_SUFFIX), args["op_name"], str(args.get("node_index", "")))
        spent_us[key] = spent_us.get(key, 0) + int(event["dur"])
        described.setdefault(key, args)
    return tuple(_node_time(key, spent / len(ordinary) / US_PER_MS, described[key]) for key, spent in spent_us.items())


def _node_time(key: tuple[str, str, str], latency_ms: float, args: dict[str, Any]) -> NodeTime:
    outputs = args.get("output_type_shape", [])
    dtype, shape = next(iter(outputs[0].items())) if outputs else ("", [])
    return NodeTime(*key, latency_ms, tuple(shape), dtype, len(args.get("input_type_shape", [])) + len(outputs))
