"""CIFAR-10 (JPEG), ResNet-20: a 30-minute search against what a careful engineer makes by hand with the same training per model.

    python benchmarks/cifar10_resnet20.py [--run DIR] [--minutes 30]

The search runs as `paretopress search runs/cifar10_resnet20.toml` would. Then the hand-made models are trained for as many steps as a
finalist had in all, with the same recipe; re-solving layers by least squares before the first step is the search's alone. At the end every
model is measured once more, in random order, interleaved with the baseline, and these last ratios are the ones compared. Takes about 50
minutes on two cores, with nothing else running. With --run on a folder that holds a finished search, that search is used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from real_search import finalists, search_to_its_end, sessions_by_file
from results_file import Headline, write_result

from paretopress.compress.apply import compress_module
from paretopress.config import parse_config, read_config
from paretopress.core.model_inputs import zeros
from paretopress.core.plan import Plan
from paretopress.evaluators.macs import count_macs
from paretopress.evaluators.size import file_facts
from paretopress.run.factory import load_and_trace
from paretopress.run.setup import recovery_for, scoring_threads
from paretopress.run.state import RunState
from paretopress.search.samplers.initial_plans import int8_bits
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import capabilities_in
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "runs" / "cifar10_resnet20.toml"
DROPS = (0.5, 1.0, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class Model:
    """One measured model; `path` is relative to the run folder."""

    maker: str
    name: str
    path: str
    sha256: str
    size_bytes: int
    macs: int
    val_accuracy: float
    test_accuracy: float
    plan: dict[str, object]


def by_hand(pipeline: Pipeline, space: SearchSpace, state: RunState, folder: RunFolder, recovery_steps: int) -> list[Model]:
    """Return the hand-made models; each training run is lowered in float, in int8, or in int8 of the wide layers."""
    recovery = recovery_for(pipeline.intake, pipeline.data, parse_config(folder.read(folder.config), "config.json"), state)
    graph = pipeline.intake.graph
    int8, wide = int8_bits(space, 1), int8_bits(space, 32)
    designs: list[tuple[str, Plan, int, dict[str, dict[str, int]]]] = [("(a) unchanged", Plan(), 0, {"int8": int8})]
    for ratio in (0.25, 0.5, 0.75):
        kept = space.uniform_kept(ratio)
        designs.append((f"(b) {ratio:.0%} of channels pruned", Plan(kept=kept), recovery_steps, {"float": {}, "int8": int8}))
    for count in range(1, 5):
        kept = dict.fromkeys(state.removal_order[:count], 0)
        designs.append((f"(c) {count} blocks removed", Plan(kept=kept), recovery_steps, {"int8": int8, "int8 where wide": wide}))
    models = []
    for name, plan, steps, widths in designs:
        module = compress_module(pipeline.intake.module, graph, plan).module
        if steps:
            recovery.run(module, temperature=plan.temperature, alpha=plan.alpha, steps=steps, seed=1)
        for width, bits in widths.items():
            gone = graph.removed_layers(plan.kept)
            lowered = Plan(kept=plan.kept, bits={k: v for k, v in bits.items() if k not in gone})
            path = folder.root / "hand" / f"{name}, {width}.onnx".replace("/", "-")
            path.parent.mkdir(exist_ok=True)
            pipeline.lower(module, lowered, path, StageTimer())
            size_bytes, sha256 = file_facts(path)
            relative = str(path.relative_to(folder.root))
            val, test = pipeline.val_accuracy(relative), pipeline.test_accuracy(relative)
            macs = count_macs(module, zeros(graph.inputs, 1)).macs
            models.append(Model("hand", f"{name}, {width}", relative, sha256, size_bytes, macs, val, test, lowered.to_json()))
            print(f"{models[-1].name}: val {val:.2f} %, test {test:.2f} %, {steps} steps", flush=True)
    return models


def from_front(front: dict[str, object]) -> list[Model]:
    """Return the fully recovered points of a front."""
    return [
        Model(
            "search",
            f"trial {point['trial']}",
            point["onnx"]["path"],
            point["onnx"]["sha256"],
            point["size_bytes"],
            point["macs"],
            point["val_accuracy"],
            point["test_accuracy"],
            point["plan"],
        )
        for point in front["points"]
        if point["rung"] == 3
    ]


def measured_again(models: list[Model], folder: RunFolder, pipeline: Pipeline, baseline_ms: float) -> list[dict[str, object]]:
    """Return a row per model with the median ratio of its sessions."""
    by_file = sessions_by_file([folder.root / model.path for model in models], folder.baseline, pipeline.feed, baseline_ms)
    rows = []
    for model, sessions in zip(models, by_file, strict=True):
        ratio = float(np.median([latency.ratio for latency in sessions]))
        rows.append(
            asdict(model)
            | {
                "latency_vs_baseline": ratio,
                "speedup": 1.0 / ratio,
                "latency_vs_baseline_ci": [min(s.ratio_ci[0] for s in sessions), max(s.ratio_ci[1] for s in sessions)],
                "latency_ms": ratio * baseline_ms,
            }
        )
    return rows


def fastest(rows: list[dict[str, object]], maker: str, drop: float) -> dict[str, object] | None:
    """Return the fastest row of a maker whose test accuracy is within `drop` points."""
    within = [row for row in rows if row["maker"] == maker and row["test_drop"] <= drop]
    return max(within, key=lambda row: row["speedup"]) if within else None


def headlines(rows: list[dict[str, object]], best: int | None) -> list[Headline]:
    """Return the figures of the comparison; `best` is the trial that was chosen on validation data alone."""
    search, hand = fastest(rows, "search", 1.0), fastest(rows, "hand", 1.0)
    value = round(search["speedup"], 3) if search else None
    lines = [Headline("fastest point within 1.0 point of the baseline on test", value, "x fp32", 2.5, bool(search and value >= 2.5))]
    if search:
        lines.append(Headline("MACs of that point", search["macs"] / 1e6, "MMACs"))
    chosen = next((row for row in rows if row["name"] == f"trial {best}"), None)
    if chosen:
        lines.append(Headline("point chosen on validation data alone", round(chosen["speedup"], 3), "x fp32"))
        lines.append(Headline("test drop of the point chosen on validation data alone", round(chosen["test_drop"], 2), "points"))
    lines += [line for drop in DROPS if (line := against_hand(rows, drop))]
    if hand:
        lines.append(Headline("best by hand within 1.0 point", round(hand["speedup"], 3), "x fp32"))
    return lines


def against_hand(rows: list[dict[str, object]], drop: float) -> Headline | None:
    """Return how fast the search's fastest within a drop is, as a multiple of the fastest by hand; no value if it has none there."""
    ours, theirs = fastest(rows, "search", drop), fastest(rows, "hand", drop)
    if theirs is None:
        return None
    ratio = round(ours["speedup"] / theirs["speedup"], 3) if ours else None
    is_bar = drop == 1.0
    name = f"search against the best by hand ({theirs['name']}, {theirs['speedup']:.2f}x) within {drop} points"
    return Headline(name, ratio, "x as fast", 1.0 if is_bar else None, bool(ratio and ratio >= 1.0) if is_bar else None)


def compared(
    config_file: Path, run: Path, minutes: float | None = None, make: Callable[..., list[Model]] = by_hand
) -> tuple[list[dict[str, object]], dict[str, object], dict[str, object]]:
    """Search, make the models by hand, measure all again; return their rows, fastest first, the front, and what both had in common."""
    config = read_config(config_file)
    folder = RunFolder(run)
    time = config.to_json()["time"]
    alone = {"time": time if minutes is None else time | {"minutes": minutes}, "disk": {"cache_mb": 0}}  # no earlier run helps
    search_to_its_end(parse_config(config.to_json() | alone, str(config_file)), run)
    front = json.loads(folder.front.read_text())
    state = RunState.from_json(folder.read(folder.state))
    intake, data = load_and_trace(config)
    capabilities = capabilities_in(state.environment)
    pipeline = Pipeline(intake, data, LocalTarget(), folder, PipelineSettings(config.seed, capabilities.reduce_range, scoring_threads()))
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=capabilities.channel_step))
    steps = state.effort.short_steps + state.effort.long_steps + state.effort.final_steps
    models = [*from_front(front), *make(pipeline, space, state, folder, steps)]
    rows = measured_again(models, folder, pipeline, front["baseline"]["latency_ms"])
    for row in rows:
        row["test_drop"] = front["baseline"]["test_accuracy"] - row["test_accuracy"]
    rows.sort(key=lambda row: -row["speedup"])
    shared = {key: front[key] for key in ("baseline", "budget", "data", "trials", "rungs", "stopped_early", "seconds", "seed", "elapsed_s")}
    shared |= {"training_steps_each": steps, "batch_size": config.recovery.batch_size, "learning_rate": state.learning_rate}
    shared["finalists"] = finalists(folder, front["baseline"]["val_accuracy"])
    return rows, front, shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/cifar10_resnet20"))
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_args()
    keep_freed_memory()
    rows, front, shared = compared(CONFIG, args.run, args.minutes)
    write_result("cifar10_resnet20", headlines(rows, front["best"]), rows, **shared)


if __name__ == "__main__":
    main()
