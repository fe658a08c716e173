"""A space of four equal layers, and figures of its plans by a formula."""

from __future__ import annotations

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, TensorSpec
from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("a", "b", "c", "d")
LAYERS = tuple(Layer(name, LayerKind.CONV, 64, 64, (3, 3), (1, 1), 1, 1_000_000, 9_216, (64, 8, 8)) for name in NAMES)
GROUPS = tuple(ChannelGroup(name, 64, (name,)) for name in NAMES)
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    LAYERS,
    GROUPS,
    (),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES),
    (),
)
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8))
BOUNDS = Bounds(Budget(speedup=1.1), 10.0, 90.0)


def made_up(plan: Plan, rung: Rung, number: int) -> Outcome:
    """Half of the channels of a layer save 1 ms and cost half a point; 8 bits save 0.5 ms and cost 0.1."""
    left = sum(1.0 - kept / 64 for kept in plan.kept.values())
    ms = 10.0 - 2.0 * left - 0.5 * len(plan.bits)
    latency = Latency(ms, (0.99 * ms, 1.01 * ms), ms / 10.0, (0.099 * ms, 0.101 * ms), ms, ms, 10.0, 8, 100, 0.1)
    return Outcome(rung, 90.0 - left - 0.1 * len(plan.bits), 100, 10, latency, 1_000, "model.onnx", f"{number:064d}")
