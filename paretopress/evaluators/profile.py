"""Profile of an ONNX file: the cost of every node that the runtime executes, with the layer that it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from paretopress.core.arrays import Feed
from paretopress.evaluators.node_overhead import trace_with_overhead
from paretopress.evaluators.runtime_trace import Subject
from paretopress.runtimes.runtime import SessionSettings

# The optimiser writes "fused /fc/Gemm", "/conv1/Conv_token_4" and, for a blocked convolution, the tensor that it ends in:
# "/Relu_output_0_nchwc" for a Conv that swallowed its Relu.
ADDED_BY_OPTIMISER = re.compile(r"^(?:fused )+|(?:_nchwc|_token_\d+)+$")
OPS_WITH_WEIGHTS = re.compile(r"Conv|Gemm|MatMul")

LayerOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One node of the optimised graph.

    Attributes:
        layer: module path, or None for what belongs to no layer (reorders, Q/DQ, pooling, adds).
        node: as the runtime names it.
        latency_ms: mean over the profiled runs, without what the profiler adds.
        share: of the sum over all nodes.
    """

    layer: str | None
    node: str
    op: str
    latency_ms: float
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The costs of all nodes in the order of execution, and what they must add up to.

    Attributes:
        raw_sum_ms: the sum as the profiler shows it.
        whole_ms: p50 of the model without the profiler, its runs in turns with the profiled ones.
    """

    costs: tuple[LayerCost, ...]
    raw_sum_ms: float
    whole_ms: float

    @property
    def sum_ms(self) -> float:
        """Return the sum of the costs."""
        return sum(cost.latency_ms for cost in self.costs)

    def by_layer(self) -> dict[str | None, float]:
        """Return layer -> milliseconds of its nodes; None stands for what belongs to no layer."""
        spent: dict[str | None, float] = {}
        for cost in self.costs:
            spent[cost.layer] = spent.get(cost.layer, 0.0) + cost.latency_ms
        return spent


def module_path(node: str) -> str:
    """Return the module path in a node's name: "layer1.0.conv1" for "/layer1/layer1.0/conv1/Conv", as the TorchScript exporter writes it.

    A component that extends the one before it ("layer1", "layer1.0") stands for both. A name without a slash is a path itself, as
    `lower.export.export_onnx` writes it, but for the number behind "#" of a layer's later calls.
    """
    if "/" not in node:
        return node.split("#")[0]
    path: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)


def layer_by_module_path(layers: Iterable[str]) -> LayerOf:
    """Return a `layer_of` for files exported from torch: the longest of `layers` that is the node's module or holds it."""
    known = frozenset(layers)

    def layer_of(node: str) -> str | None:
        parts = module_path(node).split(".")
        for end in range(len(parts), 0, -1):
            if (name := ".".join(parts[:end])) in known:
                return name
        return None

    return layer_of


class Origins:
    """Finds the nodes of a file's graph, with weights, that the nodes of the optimised graph were made from."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._by_name = {node.name: node for node in graph.node if node.name}
        self._by_output = {output: node for node in graph.node for output in node.output}

    def nodes(self, names: Sequence[str]) -> list[onnx.NodeProto | None]:
        """Return for each name in the optimised graph the node that it names or ends in, else the nearest before it that no other took.

        A convolution that swallowed an add is named by the add's output, where another convolution may end as well.
        """
        starts = [self._start(name) for name in names]
        own = {start.name or start.output[0] for start in starts if start is not None and OPS_WITH_WEIGHTS.search(start.op_type)}
        return [self._nearest(start, own) for start in starts]

    def _start(self, name: str) -> onnx.NodeProto | None:
        plain = ADDED_BY_OPTIMISER.sub("", name)
        return self._by_name.get(plain) or self._by_output.get(plain)

    def _nearest(self, start: onnx.NodeProto | None, taken: set[str]) -> onnx.NodeProto | None:
        queue = [] if start is None else [start]
        seen: set[str] = set()
        for node in queue:  # grows while it is walked: breadth first
            if OPS_WITH_WEIGHTS.search(node.op_type) and (node is start or (node.name or node.output[0]) not in taken):
                taken.add(node.name or node.output[0])
                return node
            for tensor in node.input:
                if tensor not in seen and tensor in self._by_output:
                    seen.add(tensor)
                    queue.append(self._by_output[tensor])
        return None


def profile_onnx(path: Path, *, settings: SessionSettings, feed: Feed, layer_of: LayerOf, runs: int = 50) -> Profile:
    """Return the cost of every node of the optimised graph.

    The profiler slows every node by microseconds. These are measured on chains of trivial nodes and taken off again; nothing is scaled
    to fit, so the sum and the whole model's own p50 stay two figures that can be compared.

    Args:
        feed: input name -> array; "x" is (N, C, H, W) float32, N = batch.
        layer_of: name of a node with weights in the file, e.g. "/layer1/layer1.0/conv1/Conv" -> its layer, or None;
            `layer_by_module_path` makes one.
    Raises: LatencyError: the session failed, or no node took any time.
    Invariant: the shares sum to 1.
    """
    traced, overhead = trace_with_overhead(Subject(path, feed), settings=settings, runs=runs)
    times = [overhead.corrected_ms(node) for node in traced.nodes]
    with_weights = [i for i, node in enumerate(traced.nodes) if OPS_WITH_WEIGHTS.search(node.op)]
    origins = Origins(onnx.load(path, load_external_data=False).graph).nodes([traced.nodes[i].name for i in with_weights])
    layers = {i: layer_of(origin.name) for i, origin in zip(with_weights, origins, strict=True) if origin is not None}
    costs = tuple(
        LayerCost(layers.get(i), node.name, node.op, latency_ms, latency_ms / sum(times))
        for i, (node, latency_ms) in enumerate(zip(traced.nodes, times, strict=True))
    )
    return Profile(costs, sum(node.latency_ms for node in traced.nodes), traced.whole_ms)
