"""The profiler's events, scripted, and a real session's files; no wall time is asserted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paretopress.core.arrays import Feed
from paretopress.errors import LatencyError
from paretopress.evaluators import runtime_trace as module
from paretopress.evaluators.runtime_trace import NodeTime, Subject, Trace, trace_in_turns
from paretopress.runtimes.runtime import SessionSettings

SETTINGS = SessionSettings()
FEED = {"x": np.ones((1, 4), np.float32)}


class PlainSession:
    """Does nothing."""

    def run(self, outputs: None, feed: Feed) -> list[Any]:
        return []


class ScriptedSession:
    """Writes a trace of runs whose conv takes what the script says, and whose pool takes 10 us; both nodes have one name."""

    def __init__(self, path: Path, conv_us: Iterator[int]) -> None:
        self.path, self.conv_us = path, conv_us
        self.events: list[dict[str, Any]] = []

    def run(self, outputs: None, feed: Feed) -> list[Any]:
        start, conv_us = 10_000 * len(self.events), next(self.conv_us)
        for index, op, ts, dur in (("3", "Conv", 1, conv_us), ("7", "MaxPool", 5_000, 10)):
            args = {
                "op_name": op,
                "node_index": index,
                "input_type_shape": [{"float": [1, 3, 8, 8]}, {"float": [4, 3, 3, 3]}],
                "output_type_shape": [{"float": [1, 4, 8, 8]}],
            }
            self.events.append({"cat": "Node", "name": "same_kernel_time", "ts": start + ts, "dur": dur, "args": args})
        self.events.append({"cat": "Session", "name": "SequentialExecutor::Execute", "ts": start, "dur": 1, "args": {}})
        self.events.append({"cat": "Session", "name": "model_run", "ts": start, "dur": conv_us + 10, "args": {}})
        return []

    def end_profiling(self) -> str:
        self.path.write_text(json.dumps(self.events))
        return str(self.path)


def trace(path: Path, *, runs: int, feed: Feed = FEED, optimised: Path | None = None) -> Trace:
    (traced,) = trace_in_turns([Subject(path, feed, optimised)], settings=SETTINGS, runs=runs)
    return traced


def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, conv_us: list[int]) -> None:
    sessions = iter([PlainSession(), ScriptedSession(tmp_path / "trace.json", iter(conv_us))])
    monkeypatch.setattr(module, "open_session", lambda *_, **__: next(sessions))


def test_trace_counts_ordinary_runs_when_some_are_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # five warm-up runs of 900 us; of the eight that count the two shortest and the two longest are left out: (20 + 20 + 24 + 24) / 4
    scripted(monkeypatch, tmp_path, [900] * 5 + [10, 20, 800, 24, 20, 12, 24, 700])
    traced = trace(tmp_path / "m.onnx", runs=8)
    assert traced.nodes == (
        NodeTime("same", "Conv", "3", 0.022, (1, 4, 8, 8), "float", 3),
        NodeTime("same", "MaxPool", "7", 0.010, (1, 4, 8, 8), "float", 3),
    )
    assert traced.whole_ms > 0.0


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_trace_counts_every_node_when_there_are_few_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    scripted(monkeypatch, tmp_path, [900] * 5 + [50] * runs)
    assert [node.latency_ms for node in trace(tmp_path / "m.onnx", runs=runs).nodes] == [0.05, 0.01]


def _write(path: Path) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Tanh", ["x"], ["t"], name="first"), helper.make_node("Sigmoid", ["t"], ["y"])]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_trace_shows_shapes_and_keeps_the_optimised_graph_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = _write(tmp_path / "m.onnx"), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    traced = trace(path, runs=25, optimised=scratch / "optimised.onnx")
    assert [(node.op, node.shape, node.dtype, node.tensors) for node in traced.nodes] == [
        ("Tanh", (1, 4), "float", 2),
        ("Sigmoid", (1, 4), "float", 2),
    ]
    assert traced.nodes[1].name == f"Sigmoid_{traced.nodes[1].index}"
    assert [file.name for file in scratch.iterdir()] == ["optimised.onnx"]
    assert [node.op_type for node in onnx.load(scratch / "optimised.onnx").graph.node] == ["Tanh", "Sigmoid"]


def test_trace_raises_when_the_feed_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"must run its feed.*at m\.onnx"):
        trace(_write(tmp_path / "m.onnx"), feed={"x": np.ones((1, 3), np.float32)}, runs=5)


def test_trace_raises_when_no_run_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="runs=0"):
        trace(_write(tmp_path / "m.onnx"), runs=0)
