"""A space of six layers with two removable branches, and figures of its plans by a formula."""

from __future__ import annotations

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch, TensorSpec
from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds
from paretopress.spaces.space import SearchSpace, SpaceOptions

LAYERS = tuple(
    Layer(name, LayerKind.CONV, 32, 32, (3, 3), (1, 1), 1, 1_000_000, 9_216, (32, 8, 8))
    for name in ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "head")
)
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    LAYERS,
    tuple(ChannelGroup(name, 32, (name,)) for name in ("stem", "a.conv1", "b.conv1")),
    tuple(ResidualBranch(f"{x}.conv1", f"add_{x}", 0, (f"{x}.conv1", f"{x}.conv2"), (f"{x}.conv1",)) for x in "ab"),
    tuple(BitGroup(layer.name, (layer.name,), (32, 8)) for layer in LAYERS),
    (),
)
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8))
BOUNDS = Bounds(Budget(speedup=2.0), 10.0, 90.0)
BASELINE_MS = 10.0


def outcome(
    accuracy: float, latency_ms: float, macs: int = 100, *, rung: Rung = Rung.SHORT, rejected: str = "", spread: float = 0.01
) -> Outcome:
    ratio = latency_ms / BASELINE_MS
    interval = (latency_ms * (1 - spread), latency_ms * (1 + spread))
    latency = Latency(latency_ms, interval, ratio, (ratio, ratio), latency_ms, latency_ms, BASELINE_MS, 8, 100, 0.1)
    return Outcome(rung, accuracy, macs, 10, latency, 1_000, "model.onnx", "0" * 64, rejected)


def synthetic(plan: Plan, rung: Rung, number: int) -> Outcome:
    """Each layer costs 1.5 ms dense, 0.6 in int8; pruning and removal save in proportion; accuracy falls with both."""
    latency, accuracy = 1.0, 90.0
    for layer in LAYERS:
        kept = plan.kept.get(layer.name, plan.kept.get(layer.name.replace("conv2", "conv1"), 32)) / 32
        int8 = layer.name in plan.bits
        latency += kept * (0.6 if int8 else 1.5)
        accuracy -= 2.0 * (1.0 - kept) ** 2 + (0.2 if int8 else 0.0) + (0.5 if layer.name in plan.rank else 0.0)
    accuracy += 0.5 if rung is Rung.FINAL else 0.0
    if latency * 1.01 > BOUNDS.limit_ms:
        return outcome(accuracy - 30.0, latency, rung=Rung.COSTS, rejected="over the latency budget")
    return outcome(accuracy, latency, rung=rung)
