"""Does `explain` name why a model is slow, and do the layers of `profile` add up to the model?

    python benchmarks/latency_explain.py

Sixteen small models, each slow for one planted reason, and three that are slow for none (benchmarks/planted.py). Then the profile of the
CIFAR ResNet-20, in float and in int8, five times each. Half a minute on one core, with nothing else running.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from cifar10 import resnet20
from planted import CASES, Case
from results_file import Headline, write_result

from paretopress.core.model_graph import INPUT
from paretopress.evaluators.explain import explain
from paretopress.evaluators.optimised_graph import Conditions, read_facts
from paretopress.evaluators.profile import profile_onnx
from paretopress.evaluators.rates import measure_rates
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.runtimes.onnx_runtime import random_feed
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment

SETTINGS = SessionSettings(threads=1)
RUNS = 50
PROFILES = 5
NAMED_BAR, SUM_BAR = 8, 0.15


def explained(case: Case, folder: Path, conditions: Conditions) -> dict[str, object]:
    """Return which causes were named for one model, the largest predicted saving first."""
    path = folder / "model.onnx"
    case.write(path)
    facts = read_facts(path, random_feed(path, np.random.default_rng(0)), conditions, runs=RUNS)
    explanation = explain(case.name, facts)
    kinds = [found.kind for found in explanation.causes]
    return {
        "case": case.name,
        "planted": [str(kind) for kind in case.kinds],
        "rank": next((rank for rank, kind in enumerate(kinds, 1) if kind in case.kinds), None),
        "whole_ms": explanation.whole_ms,
        "predicted_ms": explanation.predicted_ms,
        "nodes_ms": explanation.nodes_ms,
        "causes": [found.to_json() for found in explanation.causes],
    }


def profiled(folder: Path) -> list[dict[str, object]]:
    """Return what the nodes of the ResNet-20 add up to, beside the whole model's p50."""
    model, images = resnet20(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    paths = {"float": folder / "float.onnx", "int8": folder / "int8.onnx"}
    export_onnx(model, images, paths["float"])
    layers = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]
    quantise_onnx(paths["float"], paths["int8"], dict.fromkeys(layers, 8), [{INPUT: images.numpy()}], reduce_range=False)
    rows: list[dict[str, object]] = []
    for repetition in range(PROFILES):
        for name, path in paths.items():
            feed = random_feed(path, np.random.default_rng(repetition))
            profile = profile_onnx(path, settings=SETTINGS, feed=feed, layer_of=lambda _: None, runs=RUNS)
            rows.append(
                {
                    "model": f"CIFAR ResNet-20, {name}",
                    "whole_ms": profile.whole_ms,
                    "nodes_vs_whole": profile.sum_ms / profile.whole_ms,
                    "raw_nodes_vs_whole": profile.raw_sum_ms / profile.whole_ms,
                }
            )
    return rows


def main() -> None:
    conditions = Conditions(SETTINGS, measure_rates(SETTINGS), detect(environment()).channel_step)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        rows = []
        for case in CASES:
            rows.append(explained(case, Path(folder), conditions))
            print(f"{case.name}: {[found['kind'] for found in rows[-1]['causes']]}", flush=True)
        sums = profiled(Path(folder))
    planted, clean = [row for row in rows if row["planted"]], [row for row in rows if not row["planted"]]
    first, second = (sum(row["rank"] is not None and row["rank"] <= rank for row in planted) for rank in (1, 2))
    alarms = sum(len(row["causes"]) for row in clean)
    headlines = [
        Headline("planted causes named first", first, f"of {len(planted)}", NAMED_BAR, first >= NAMED_BAR),
        Headline("planted causes named first or second", second, f"of {len(planted)}"),
        Headline(f"causes named on {len(clean)} clean models", alarms, "false alarms", 0, alarms == 0),
    ]
    for name in ("float", "int8"):
        own = [row for row in sums if row["model"].endswith(name)]
        worst = round(max(abs(row["nodes_vs_whole"] - 1.0) for row in own), 3)
        raw = round(max(abs(row["raw_nodes_vs_whole"] - 1.0) for row in own), 3)
        headlines.append(
            Headline(
                f"profile of the {name} ResNet-20: worst of {PROFILES}, |sum of nodes / whole - 1|", worst, "", SUM_BAR, worst <= SUM_BAR
            )
        )
        headlines.append(Headline("the same as the profiler shows the nodes, with its own cost", raw, ""))
    rates = {f"{name}_gmacs": getattr(conditions.rates, name) for name in conditions.rates.__slots__}
    write_result("latency_explain", headlines, rows, host=rates, channel_step=conditions.channel_step, profile_rows=sums)


if __name__ == "__main__":
    main()
