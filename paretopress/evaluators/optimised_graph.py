"""The optimised graph that the runtime executes, with the time of every node and the layer that it came from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from paretopress.core.arrays import Feed
from paretopress.evaluators.node_overhead import NodeOverhead, trace_with_overhead
from paretopress.evaluators.profile import OPS_WITH_WEIGHTS, Origins
from paretopress.evaluators.rates import Rates
from paretopress.evaluators.runtime_trace import NodeTime, Subject
from paretopress.evaluators.source_graph import Format, SourceLayer, attributes, key, source_layers
from paretopress.runtimes.runtime import SessionSettings

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
REORDERS = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
BLOCKED_DOMAIN = "com.microsoft.nchwc"
_INT8_OPS = frozenset({"QGemm", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLinear"})


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the optimised graph.

    Attributes:
        inputs: tensors that the graph computes or is fed, constants left out.
        layer: the layer of the file that it carries out, or None.
        latency_ms: measured, without what the profiler adds.
        macs: multiply-adds that the layer asks for; a kernel that pads its channels does more.
        dtype: of the first output, as the profiler writes it: "float", "uint8".
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    layer: SourceLayer | None = None
    latency_ms: float = 0.0
    macs: int = 0
    dtype: str = "float"

    @property
    def is_int8(self) -> bool:
        """Whether its kernel multiplies or moves 8-bit integers."""
        return self.op.startswith("QLinear") or self.op in _INT8_OPS or (self.dtype in ("uint8", "int8") and self.op != QUANTISE)

    @property
    def is_float(self) -> bool:
        """Whether it computes in float; Q and DQ are neither."""
        return not self.is_int8 and self.op not in (QUANTISE, DEQUANTISE)

    @property
    def where(self) -> str:
        """Return the layer's name, or the node's with its operator."""
        return self.layer.name if self.layer is not None else f"{self.name} ({self.op})" if self.name else self.op


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions of the host, measured once for all files that are explained there.

    Attributes:
        channel_step: channels in one block of the runtime's layout.
    """

    settings: SessionSettings
    rates: Rates
    channel_step: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The optimised graph of one file in the order of execution, and what is typical of the host.

    Attributes:
        layers: every layer of the file, also those that the runtime fused into others.
        whole_ms: p50 of the model without the profiler. raw_sum_ms: the nodes as the profiler shows them, summed.
    """

    nodes: tuple[Node, ...]
    layers: tuple[SourceLayer, ...]
    whole_ms: float
    raw_sum_ms: float
    rates: Rates
    floor_ms: float
    channel_step: int
    _producer: dict[str, Node] = field(init=False, repr=False, compare=False)
    _readers: dict[str, list[Node]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for tensor in node.inputs:
                readers.setdefault(tensor, []).append(node)
        object.__setattr__(self, "_producer", {tensor: node for node in self.nodes for tensor in node.outputs})
        object.__setattr__(self, "_readers", readers)

    def before(self, node: Node) -> list[Node | None]:
        """Return the node that makes each input; None stands for the model's own input."""
        return [self._producer.get(tensor) for tensor in node.inputs]

    def after(self, node: Node) -> list[Node]:
        """Return the nodes that read an output; none for the model's own output."""
        return [reader for tensor in node.outputs for reader in self._readers.get(tensor, [])]

    def ahead(self, node: Node, passes: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes after this one, going on behind those that `passes` lets through."""
        yield from _walk(node, self.after, passes)

    def back(self, node: Node, passes: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes before this one, going on before those that `passes` lets through."""
        yield from _walk(node, lambda at: [before for before in self.before(at) if before is not None], passes)

    def predicted_ms(self, layer: SourceLayer, macs: int, *, int8: bool) -> float:
        """Return what the multiply-adds would take at the rate of a large layer of its kind: predicted, not measured."""
        return macs / self.rates.gmacs(int8=int8, depthwise=layer.depthwise) / 1e6

    def expected_ms(self, node: Node) -> float:
        """Return what a node's layer would take in the format that the file asks for: predicted; 0 without a layer."""
        if node.layer is None:
            return 0.0
        return self.predicted_ms(node.layer, node.macs, int8=node.layer.format in (Format.INT8, Format.DYNAMIC_INT8))

    def runs_in_float(self, node: Node) -> bool:
        """Return whether the node carries out in float a layer that the file quantises."""
        return node.layer is not None and node.layer.reads is not None and node.layer.bits <= 8 and not node.is_int8


def _walk(node: Node, step: Callable[[Node], list[Node]], passes: Callable[[Node], bool]) -> Iterator[Node]:
    queue, seen = step(node), {id(node)}
    for found in queue:  # grows while it is walked: breadth first
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if passes(found):
            queue.extend(step(found))


def read_facts(path: Path, feed: Feed, conditions: Conditions, *, runs: int) -> Facts:
    """Return the facts of one file on this host.

    Args:
        feed: input name -> array of batch N. runs: timed runs, and as many profiled ones.
    Raises: LatencyError: the runtime does not load or run the file.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        optimised = Path(folder, "optimised.onnx")
        traced, overhead = trace_with_overhead(Subject(path, feed, optimised), settings=conditions.settings, runs=runs)
        graph = onnx.load(optimised).graph
    source = onnx.load(path).graph
    layers = source_layers(source)
    nodes = list(graph.node)
    with_weights = [i for i, node in enumerate(nodes) if OPS_WITH_WEIGHTS.search(node.op_type)]
    origins = Origins(source).nodes([nodes[i].name for i in with_weights])
    layer_of = {i: layers.get(key(origin)) for i, origin in zip(with_weights, origins, strict=True) if origin is not None}
    constants = {tensor.name for tensor in graph.initializer}
    times = _Times(traced.nodes)
    return Facts(
        nodes=tuple(_node(node, times.take(node), layer_of.get(i), constants, overhead) for i, node in enumerate(nodes)),
        layers=tuple(layers.values()),
        whole_ms=traced.whole_ms,
        raw_sum_ms=sum(node.latency_ms for node in traced.nodes),
        rates=conditions.rates,
        floor_ms=overhead.floor_ms,
        channel_step=conditions.channel_step,
    )


class _Times:
    """Hands out the times of the nodes by name and operator; both graphs are in the order of execution."""

    def __init__(self, nodes: tuple[NodeTime, ...]) -> None:
        self._by_name: dict[tuple[str, str], list[NodeTime]] = {}
        for node in reversed(nodes):
            name = "" if node.name == f"{node.op}_{node.index}" else node.name
            self._by_name.setdefault((name, node.op), []).append(node)

    def take(self, node: onnx.NodeProto) -> NodeTime | None:
        left = self._by_name.get((node.name, node.op_type))
        return left.pop() if left else None


def _node(node: onnx.NodeProto, timed: NodeTime | None, layer: SourceLayer | None, constants: set[str], overhead: NodeOverhead) -> Node:
    shape = timed.shape if timed is not None else ()
    channels_last = bool(attributes(node).get("channels_last", 0))
    return Node(
        name=node.name,
        op=node.op_type,
        inputs=tuple(name for name in node.input if name and name not in constants),
        outputs=tuple(name for name in node.output if name),
        domain=node.domain,
        layer=layer,
        latency_ms=overhead.corrected_ms(timed) if timed is not None else 0.0,
        macs=layer.macs(shape, channels_last=channels_last) if layer is not None else 0,
        dtype=timed.dtype if timed is not None else "float",
    )
