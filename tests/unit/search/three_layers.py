"""A residual branch of two layers behind a stem, and cost tables that can be counted by hand."""

from __future__ import annotations

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch, TensorSpec
from paretopress.search.samplers.tables import CostTables

NAMES = ("stem", "conv1", "conv2")
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    tuple(Layer(name, LayerKind.CONV, 32, 32, (3, 3), (1, 1), 1, 600_000, 9_216, (32, 8, 8)) for name in NAMES),
    (ChannelGroup("conv1", 32, ("conv1",), ("conv2",)),),
    (ResidualBranch("conv1", "add", 0, ("conv1", "conv2"), ("conv1",)),),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES),
    (),
)
TABLES = CostTables(
    layer_ms={name: {32: 4.0, 8: 1.0} for name in NAMES},
    rest_ms={32: 0.5, 8: 0.5},
    floor_ms=0.2,
    damages={
        "prune/conv1": {0.5: 0.05, 1.0: 0.2},
        **{f"bits/{name}": {8: 0.01} for name in NAMES},
        **{f"rank/{name}": {16: 0.04} for name in NAMES},
    },
)
