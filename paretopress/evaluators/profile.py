"""What each layer of an ONNX file costs, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from paretopress.errors import LatencyError
from paretopress.targets.local import SessionSettings, first_line, open_session
from paretopress.targets.target import Feed

WARMUP_RUNS = 5
EVENT_SUFFIX = "_kernel_time"
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
        latency_ms: mean over the profiled runs; the profiler counts whole microseconds and slows small nodes down.
        share: of the sum over all nodes.
    """

    layer: str | None
    node: str
    op: str
    latency_ms: float
    share: float


def module_path(node: str) -> str:
    """Return the module path in a node name of the TorchScript exporter: "layer1.0.conv1" for "/layer1/layer1.0/conv1/Conv".

    A component that extends the one before it ("layer1", "layer1.0") stands for both.
    """
    path: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)


def layer_by_module_path(layers: Iterable[str]) -> LayerOf:
    """Return a `layer_of` for TorchScript-exported files: the longest of `layers` that is the node's module or holds it."""
    known = frozenset(layers)

    def layer_of(node: str) -> str | None:
        parts = module_path(node).split(".")
        for end in range(len(parts), 0, -1):
            if (name := ".".join(parts[:end])) in known:
                return name
        return None

    return layer_of


class _Origins:
    """Finds the node of the original graph, with weights, that a node of the optimised graph was made from."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._by_name = {node.name: node for node in graph.node if node.name}
        self._by_output = {output: node for node in graph.node for output in node.output}

    def node(self, name: str) -> str | None:
        """Return the nearest node with weights at or before the one called `name` or producing `name`, or None."""
        plain = ADDED_BY_OPTIMISER.sub("", name)
        start = self._by_name.get(plain) or self._by_output.get(plain)
        queue = [] if start is None else [start]
        seen: set[str] = set()
        for node in queue:  # grows while it is walked: breadth first
            if OPS_WITH_WEIGHTS.search(node.op_type):
                return str(node.name)
            for tensor in node.input:
                if tensor not in seen and tensor in self._by_output:
                    seen.add(tensor)
                    queue.append(self._by_output[tensor])
        return None


def _events(session: ort.InferenceSession, feed: Feed, runs: int, file: str) -> list[dict[str, Any]]:
    inputs = dict(feed)
    try:
        for _ in range(runs):
            session.run(None, inputs)
    except Exception as error:  # the runtime's exceptions share no base class but Exception
        raise LatencyError(f"a session must run its feed, but got: {first_line(error)} at {file}") from error
    finally:
        trace = Path(session.end_profiling())
    events: list[dict[str, Any]] = json.loads(trace.read_text())
    return events


def _total_us(events: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    """Return (index, node, operator) -> microseconds in all runs after the warm-up, in the order of execution.

    Session events are left out; the index keeps nodes apart that the optimiser gave one name.
    """
    starts = sorted(event["ts"] for event in events if event["cat"] == "Session" and event["name"] == "model_run")
    timed_from = starts[WARMUP_RUNS]
    total: dict[tuple[str, str, str], int] = {}
    for event in sorted(events, key=lambda event: int(event.get("ts", 0))):
        if event["cat"] != "Node" or not event["name"].endswith(EVENT_SUFFIX) or event["ts"] < timed_from:
            continue
        args = event["args"]
        key = (str(args.get("node_index", "")), event["name"].removesuffix(EVENT_SUFFIX), args["op_name"])
        total[key] = total.get(key, 0) + int(event["dur"])
    return total


def profile_onnx(path: Path, *, settings: SessionSettings, feed: Feed, runs: int = 50, layer_of: LayerOf) -> list[LayerCost]:
    """Return the cost of every node of the optimised graph, in the order of execution.

    Args:
        feed: input name -> array; "x" is (N, C, H, W) float32, N = batch.
        layer_of: name of a node with weights in the file, e.g. "/layer1/layer1.0/conv1/Conv" -> its layer, or None;
            `layer_by_module_path` makes one.
    Raises: LatencyError: the session failed, or no node took any time.
    Invariant: the shares sum to 1; the profile is written to a temporary folder that is deleted.
    """
    if runs < 1:
        raise LatencyError(f"runs >= 1 must hold, but got runs={runs}")
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, settings, profile_prefix=Path(folder) / "profile")
        total = _total_us(_events(session, feed, WARMUP_RUNS + runs, path.name))
    whole = sum(total.values())
    if whole <= 0:
        raise LatencyError(f"the profiled nodes must take time, but got {len(total)} nodes and 0 us at {path.name}")
    origins = _Origins(onnx.load(path, load_external_data=False).graph)
    costs = []
    for (_, node, op), spent_us in total.items():
        origin = origins.node(node) if OPS_WITH_WEIGHTS.search(op) else None
        layer = layer_of(origin) if origin is not None else None
        costs.append(LayerCost(layer=layer, node=node, op=op, latency_ms=spent_us / runs / 1000.0, share=spent_us / whole))
    return costs
