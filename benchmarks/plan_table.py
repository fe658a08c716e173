"""Evaluates hundreds of distinct plans of the CIFAR-10 (JPEG) ResNet-20 for real: the table that samplers are compared on.

    python benchmarks/plan_table.py [--plans 640] [--minutes M]

Every plan is carried out, exported, timed in turns with the baseline, trained for a few steps and scored on validation data; nothing is
rejected for its latency, so that the table covers the space. Half of the plans are drawn at a random strength of compression, half are
mutants of the table's front so far. The table grows by a line per plan in benchmarks/results/plan_table.jsonl, and a further call goes on
from there. About 6 seconds a plan on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from results_file import RESULTS

from paretopress.compress.apply import compress_module
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.sensitivity.branch_ranking import rank_branches
from paretopress.config import read_config
from paretopress.core.model_inputs import zeros
from paretopress.core.pareto import non_dominated
from paretopress.evaluators.macs import count_macs
from paretopress.intake.datasets.data import stack
from paretopress.run.cost_tables import measure_tables
from paretopress.run.factory import load_and_trace
from paretopress.run.setup import space_for
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.spaces.space import ALPHA, TEMPERATURE, Params, SearchSpace
from paretopress.spaces.variables import Choice
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.atomic_files import write_json
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "runs" / "cifar10_resnet20.toml"
TABLE, KNOWN = RESULTS / "plan_table.jsonl", RESULTS / "plan_table_known.json"
STEPS, LEARNING_RATE, SEED = 10, 0.03, 11


def read_table() -> list[dict[str, object]]:
    """Return the rows so far; parameters at their default are left out of a row."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.is_file() else []


def drawn(space: SearchSpace, rng: np.random.Generator) -> Params:
    """Return parameters of which a share is compressed, the share itself being drawn."""
    strength = rng.random()
    params = space.defaults()
    for variable in space.variables:
        if not isinstance(variable, Choice) or rng.random() < strength:
            params[variable.name] = variable.sample(rng)
    return params


def mutant(space: SearchSpace, rows: list[dict[str, object]], rng: np.random.Generator) -> Params:
    """Return parameters near those of a row on the front of (accuracy, latency)."""
    front = non_dominated([(-row["val_accuracy"], row["ratio"]) for row in rows])
    params = space.defaults() | rows[front[int(rng.integers(len(front)))]]["params"]
    for index in rng.choice(len(space.variables), size=int(rng.integers(1, 6)), replace=False):
        variable = space.variables[int(index)]
        params[variable.name] = variable.neighbour(params[variable.name], rng)
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=640)
    parser.add_argument("--minutes", type=float, default=90.0)
    args = parser.parse_args()
    keep_freed_memory()
    deadline = time.monotonic() + 60.0 * args.minutes

    config = read_config(CONFIG)
    intake, data = load_and_trace(config)
    capabilities = detect(environment())
    space = space_for(intake.graph, config, capabilities)
    recovery = Recovery(intake.module, data.train, config.recovery.recipe(LEARNING_RATE))
    rows = read_table()
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary))
        pipeline = Pipeline(intake, data, LocalTarget(), folder, PipelineSettings(config.seed, capabilities.reduce_range, 2))
        baseline = pipeline.measure_baseline()
        images, _ = stack(data.train, 256, config.seed)
        ranking = rank_branches(intake.module, intake.graph, images, lambda module: recovery.recalibrated(module, 0), greedy=True)
        tables = measure_tables(pipeline, space, images, ranking.loss_alone, baseline.latency.latency_ms, StageTimer())
        known = {"graph": intake.graph.to_json(), "tables": tables.to_json(), "removal_order": list(ranking.order)}
        write_json(KNOWN, known | {"baseline_ms": baseline.latency.latency_ms, "baseline_accuracy": baseline.val_accuracy})
        seeds = [space.params(plan) for plan in initial_plans(space, ranking.order)]
        seen = {space.plan(space.defaults() | row["params"]).structure() for row in rows}
        while len(rows) < args.plans and time.monotonic() < deadline:
            number = len(rows)
            rng = np.random.default_rng((SEED, number))
            params = seeds[number] if number < len(seeds) else drawn(space, rng) if number % 2 else mutant(space, rows, rng)
            plan = space.plan(params)
            while plan.structure() in seen:
                params = mutant(space, rows, rng)
                plan = space.plan(params)
            seen.add(plan.structure())
            started = time.monotonic()
            module = compress_module(intake.module, intake.graph, plan).module
            recovery.run(module, temperature=plan.temperature, alpha=plan.alpha, steps=STEPS, seed=config.seed)
            path = folder.root / "candidate.onnx"
            pipeline.lower(module, plan, path, StageTimer())
            latency = pipeline.target.measure(
                path, folder.baseline, baseline_ms=baseline.latency.latency_ms, limit_ms=None, feed=pipeline.feed, rng=rng
            )
            defaults = space.defaults()
            rows.append(
                {
                    "params": {name: value for name, value in params.items() if value != defaults[name] or name in (TEMPERATURE, ALPHA)},
                    "ratio": round(latency.ratio, 5),
                    "ratio_ci": [round(end, 5) for end in latency.ratio_ci],
                    "val_accuracy": pipeline.val_accuracy(path.name),
                    "macs": count_macs(module, zeros(intake.graph.inputs, 1)).macs,
                    "duration_s": round(time.monotonic() - started, 2),
                }
            )
            with TABLE.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            if len(rows) % 20 == 0:
                print(f"{len(rows)} plans, last {rows[-1]['val_accuracy']:.1f} % at {rows[-1]['ratio']:.3f}", flush=True)


if __name__ == "__main__":
    main()
