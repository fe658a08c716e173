"""Families of models with random weights: trace, one layer pruned, one quantised, one factorised, a short search, a verified bundle.

    python benchmarks/coverage.py [FAMILY ...] [--go-on]

Shows structure, parity and latency; with random weights there is no accuracy to speak of. Photos are 96x96. Writes results/coverage.json
after every family, from which docs/coverage.md is made; with --go-on the families that it has already are not run again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import zoo
from one_of_each import ALL, plans
from results_file import Headline, recorded_rows, write_result

from paretopress.api import start_run
from paretopress.compress.apply import compress_module
from paretopress.config import parse_config
from paretopress.core.model_graph import ModelGraph
from paretopress.core.plan import FLOAT_BITS, Plan
from paretopress.deploy.verify import verify_bundle
from paretopress.errors import ParetopressError
from paretopress.intake.datasets.data import Data
from paretopress.intake.trace import Intake
from paretopress.lower.export import check_parity
from paretopress.report.live import SilentReporter
from paretopress.run.factory import load_and_trace
from paretopress.run.setup import scoring_threads
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

NAME, TRIALS = "coverage", 4


def write(rows: list[dict[str, object]], families: int, trials: int) -> None:
    """Write the rows so far."""
    verified = sum("error" not in row for row in rows)
    headlines = [
        Headline("families from trace to a verified bundle", verified, f"of {families}", families, verified == families),
        Headline("time it took", round(sum(row["duration_s"] for row in rows) / 60.0, 1), "minutes"),
    ]
    write_result(NAME, headlines, rows, weights="random", trials=trials)


def cover(name: str, folder: Path, trials: int = TRIALS) -> dict[str, object]:
    """Return what was found in one family, or the error that stopped it."""
    started, family = time.monotonic(), zoo.FAMILIES[name]
    row: dict[str, object] = {"model": name}
    data = getattr(zoo, family.data)()
    config = parse_config(
        {
            "budget": {"speedup": 0.9},  # so wide that something is exported even where four trials find nothing faster
            "time": {"trials": trials, "finalists": 0},
            "recovery": {"short_steps": 0, "final_steps": 0, "calibration_batches": 1, "batch_size": 16},
            "disk": {"cache_mb": 0},
            "metric": {"name": family.metric, "decoder": family.decoder},
        },
        name,
    )
    try:
        intake, split = load_and_trace(config, zoo.model(name), data)
        row |= structure(intake.graph)
        result = start_run(config, folder / "run", SilentReporter(), model=zoo.model(name), data=data)
        row |= one_of_each(intake, split, RunFolder(folder / "run"), result.front["baseline"]["latency_ms"])
        checked = verify_bundle(result.export(folder / "bundle"))
    except Exception as error:  # one of ours says what to do; any other is a defect, and the row says so
        said = str(error) if isinstance(error, ParetopressError) else f"{type(error).__name__}: {error}"
        return row | {"error": said, "duration_s": round(time.monotonic() - started, 1)}
    points = result.front["points"]
    return row | {
        "trials": result.front["trials"],
        "front": len(points),
        "fastest_vs_baseline": min(point["latency_vs_baseline"] for point in points),
        "baseline_ms": result.front["baseline"]["latency_ms"],
        "bundle_sha256": checked.sha256,
        "selfcheck_difference": checked.max_difference,
        "duration_s": round(time.monotonic() - started, 1),
    }


def structure(graph: ModelGraph) -> dict[str, object]:
    """Return how much of a model can be changed."""
    macs = sum(layer.macs for layer in graph.layers)
    prunable = {name for group in graph.channel_groups for name in (*group.layers, *group.feeds)}
    return {
        "layers": len(graph.layers),
        "channel_groups": len(graph.channel_groups),
        "prunable_percent": round(100.0 * sum(layer.macs for layer in graph.layers if layer.name in prunable) / macs, 1),
        "branches": len(graph.branches),
        "bit_groups": len(graph.bit_groups),
        "frozen": [f"{item.name}: {item.reason}" for item in graph.frozen],
    }


def one_of_each(intake: Intake, data: Data, run: RunFolder, baseline_ms: float) -> dict[str, object]:
    """Return the speed-up of each plan's file, and the parity error of the plan that does all, before its layers are quantised."""
    capabilities = detect(environment())
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=capabilities.channel_step))
    target = LocalTarget()
    pipeline = Pipeline(intake, data, target, run, PipelineSettings(0, capabilities.reduce_range, scoring_threads()))
    found: dict[str, object] = {}
    for number, (word, plan) in enumerate(plans(space).items()):
        path = run.root / f"one-{number}.onnx"
        module = compress_module(intake.module, intake.graph, plan).module
        if word == ALL and not intake.graph.only_bits:
            pipeline.lower(module, Plan(kept=plan.kept, rank=plan.rank, bits=dict.fromkeys(plan.bits, FLOAT_BITS)), path, StageTimer())
            found["parity"] = check_parity(module, path, pipeline.example)
        pipeline.lower(module, plan, path, StageTimer(), only_timed=True)
        latency = target.measure(
            path,
            run.baseline,
            baseline_ms=baseline_ms,
            limit_ms=None,
            feed=pipeline.feed,
            rng=np.random.default_rng(number),
        )
        found[word] = round(1.0 / latency.ratio, 3)
    return {"one_of_each": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help="these alone (default: all)")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of the short search (default: %(default)s)")
    parser.add_argument("--go-on", action="store_true", help="keep what the result file has")
    options = parser.parse_args()
    names = options.family or list(zoo.FAMILIES)
    if unknown := sorted(set(names) - set(zoo.FAMILIES)):
        parser.error(f"the families are {', '.join(zoo.FAMILIES)}, but got {', '.join(unknown)}")
    rows = [row for row in recorded_rows(NAME) if "error" not in row or row["model"] not in names] if options.go_on else []
    done = {row["model"] for row in rows}
    for name in (name for name in names if name not in done):
        with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
            rows.append(cover(name, Path(folder), options.trials))
        print(rows[-1], flush=True)
        write(rows, len(done | set(names)), options.trials)


if __name__ == "__main__":
    main()
