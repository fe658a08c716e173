"""The rows of `paretopress profile`: what each layer of the unchanged model costs on this host."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from paretopress.evaluators.profile import layer_by_module_path, profile_onnx
from paretopress.intake.data import Data, stack
from paretopress.intake.trace import Intake
from paretopress.lower.export import INPUT, export_onnx
from paretopress.report.tables import ProfileRow
from paretopress.targets.local import SessionSettings


def profile_rows(intake: Intake, data: Data, *, threads: int, runs: int) -> list[ProfileRow]:
    """Return a row per layer in the model's order, then one for what belongs to no layer (pooling, adds, reorders)."""
    example, _ = stack(data.val, 2, 0)
    graph = intake.graph
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        path = Path(temporary, "model.onnx")
        export_onnx(intake.module, example, path)
        feed = {INPUT: np.ascontiguousarray(example[:1].numpy())}
        costs = profile_onnx(
            path,
            settings=SessionSettings(threads=threads),
            feed=feed,
            runs=runs,
            layer_of=layer_by_module_path(layer.name for layer in graph.layers),
        )
    spent: dict[str | None, tuple[float, float]] = {}
    for cost in costs:
        before = spent.get(cost.layer, (0.0, 0.0))
        spent[cost.layer] = (before[0] + cost.latency_ms, before[1] + cost.share)
    rows = [
        ProfileRow(layer.name, str(layer.kind), layer.macs, layer.params, *spent.get(layer.name, (None, None))) for layer in graph.layers
    ]
    if None in spent:
        rows.append(ProfileRow("(no layer)", "other", 0, 0, *spent[None]))
    return rows
