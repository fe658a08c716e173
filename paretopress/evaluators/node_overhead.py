"""Overhead of the runtime and of its profiler per node, measured on chains of trivial nodes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paretopress.evaluators.runtime_trace import NodeTime, Subject, Trace, trace_in_turns
from paretopress.runtimes.runtime import SessionSettings

SHORT, LONG = 16, 80
SHAPE = (1, 8, 1, 1)  # as many axes to format as the tensors of a convolution
OPSET, IR_VERSION = 17, 8
# operator -> tensors that the profiler writes down for one node: its inputs and its output
TENSORS = {"Tanh": 2, "QLinearAdd": 9}


@dataclass(frozen=True, slots=True)
class NodeOverhead:
    """Milliseconds that do not depend on what a node computes.

    Attributes:
        floor_ms: what a node costs in an unprofiled session if it computes next to nothing.
        node_ms, tensor_ms: what the profiler adds to a node's time, and to it for each tensor that it writes down.
    """

    floor_ms: float
    node_ms: float
    tensor_ms: float

    def corrected_ms(self, node: NodeTime) -> float:
        """Return a node's time without what the profiler added, but not less than the floor."""
        return max(node.latency_ms - self.node_ms - self.tensor_ms * node.tensors, self.floor_ms)


def trace_with_overhead(subject: Subject, *, settings: SessionSettings, runs: int) -> tuple[Trace, NodeOverhead]:
    """Return the trace of a file, and what the profiler added to its nodes, measured in the same seconds.

    The chains take turns with the file: a machine that changes its clock rate changes both. A node's real time is the difference of
    the unprofiled p50s of a long and a short chain over the difference of their lengths, so the fixed cost of a run cancels; what the
    profiler shows beyond it is the profiler's, which formats types and shapes while the node's clock runs and cuts off to whole
    microseconds. Chains of Tanh and of QLinearAdd, most of whose inputs are constants like those of every quantised kernel, tell the
    part that grows with the tensors.
    Raises: LatencyError: a session failed, or `runs` is not positive.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        chains = [_chain(Path(folder), op, length) for op in TENSORS for length in (SHORT, LONG)]
        traced, *of_chains = trace_in_turns([subject, *chains], settings=settings, runs=runs)
    return traced, _overhead(of_chains)


def _overhead(of_chains: Sequence[Trace]) -> NodeOverhead:
    pairs = list(zip(of_chains[::2], of_chains[1::2], strict=True))
    real_ms = [(long.whole_ms - short.whole_ms) / (LONG - SHORT) for short, long in pairs]
    shown_ms = [float(np.mean([node.latency_ms for node in long.nodes])) for _, long in pairs]
    few_ms, many_ms = (shown - real for shown, real in zip(shown_ms, real_ms, strict=True))
    few, many = TENSORS.values()
    tensor_ms = max((many_ms - few_ms) / (many - few), 0.0)
    return NodeOverhead(max(min(real_ms), 0.0), few_ms - tensor_ms * few, tensor_ms)


def _chain(folder: Path, op: str, length: int) -> Subject:
    quantised = op == "QLinearAdd"
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (("s", np.float32(1.0)), ("z", np.uint8(0)))]
    nodes = []
    for i in range(length):
        inputs = [f"t{i}", "s", "z", f"t{i}", "s", "z", "s", "z"] if quantised else [f"t{i}"]
        nodes.append(helper.make_node(op, inputs, [f"t{i + 1}"], name=f"n{i}", domain="com.microsoft" if quantised else ""))
    dtype = TensorProto.UINT8 if quantised else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, dtype, SHAPE) for name in ("t0", f"t{length}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants if quantised else [])
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    path = folder / f"{op}{length}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION), path)
    return Subject(path, {"t0": np.zeros(SHAPE, np.uint8 if quantised else np.float32)})
