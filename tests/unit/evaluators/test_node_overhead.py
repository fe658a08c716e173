"""What the profiler adds to a node, with figures worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paretopress.evaluators import node_overhead as module
from paretopress.evaluators.node_overhead import LONG, SHORT, TENSORS, NodeOverhead, trace_with_overhead
from paretopress.evaluators.runtime_trace import NodeTime, Subject, Trace, trace_in_turns
from paretopress.runtimes.runtime import SessionSettings

SETTINGS = SessionSettings()


def test_corrected_ms_takes_off_the_profiler_when_the_node_took_longer() -> None:
    # 0.050 - 0.003 - 5 * 0.0004
    assert NodeOverhead(0.001, 0.003, 0.0004).corrected_ms(NodeTime("n", "Conv", "0", 0.050, tensors=5)) == pytest.approx(0.045)


def test_corrected_ms_is_the_floor_when_a_node_takes_the_profilers_time() -> None:
    assert NodeOverhead(0.001, 0.003, 0.0004).corrected_ms(NodeTime("n", "Neg", "0", 0.003, tensors=2)) == 0.001


def test_trace_with_overhead_separates_node_and_tensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run costs 10 us and a node 1 us without the profiler, which adds 2 us a node and 0.5 us a tensor."""

    def scripted(subjects: Sequence[Subject], **_: Any) -> list[Trace]:
        return [chain_trace(subject.path.stem) for subject in subjects]

    def chain_trace(stem: str) -> Trace:
        tensors, length = (9 if stem.startswith("QLinearAdd") else 2), LONG if stem.endswith(str(LONG)) else SHORT
        shown_ms = (1 + 2 + 0.5 * tensors) / 1e3
        nodes = tuple(NodeTime(f"n{i}", "op", str(i), shown_ms, tensors=tensors) for i in range(length))
        return Trace(nodes, (10 + length) / 1e3)

    monkeypatch.setattr(module, "trace_in_turns", scripted)
    _, found = trace_with_overhead(Subject(tmp_path / "m.onnx", {}), settings=SETTINGS, runs=1)
    assert (found.floor_ms, found.node_ms, found.tensor_ms) == pytest.approx((0.001, 0.002, 0.0005))


@pytest.mark.parametrize(("op", "tensors"), TENSORS.items())
def test_chain_runs_every_node_when_the_runtime_optimises_it(tmp_path: Path, op: str, tensors: int) -> None:
    (traced,) = trace_in_turns([module._chain(tmp_path, op, 5)], settings=SETTINGS, runs=2)
    assert [(node.op, node.tensors) for node in traced.nodes] == [(op, tensors)] * 5
