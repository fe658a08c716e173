"""What early rejection, rungs, kept taught_batches and shared students buy: trials per hour, and hypervolume at equal time.

    python benchmarks/throughput.py [--minutes 12]

A search of the CIFAR-10 (JPEG) ResNet-20 with the same seed, sampler, seed plans, tables and baseline, for some minutes each. First as a
plain loop: without rungs nothing tells which plans deserve it, so each is trained for as many steps as a finalist has had in all, on
batches and teacher logits made anew. Then with one saving more at a time; with rungs, half of the time is the finalists', as in every
search, and trials per hour are counted over the whole time all the same. The final hypervolume is that of the plans with all their steps.
About an hour on two cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from results_file import Headline, write_result
from search_hour import MEASURED, OUTSIDE_BAR

from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.student_cache import StudentCache
from paretopress.config import RunConfig, parse_config, read_config
from paretopress.core.outcome import Rung
from paretopress.run.factory import load_and_trace
from paretopress.run.setup import find_state, scoring_threads, space_for
from paretopress.run.state import RunState
from paretopress.search.candidates import RUNGS, Bounds
from paretopress.search.fidelity import promotion
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.tables import CostTables
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search
from paretopress.spaces.space import SearchSpace
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import RunFolder, create_run_folder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget
from paretopress.trial.effort import Effort
from paretopress.trial.evaluator import PlanEvaluator
from paretopress.trial.pipeline import Pipeline, PipelineSettings

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "search_hour.toml"
FACTOR_BAR = 5.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the loop; `races` is whether a plan may be stopped for what it cannot reach."""

    name: str
    ladder: tuple[Rung, ...]
    keeps_lessons: bool = True
    races: bool = True
    shares_students: bool = False


TWO = (Rung.COSTS, Rung.LONG)
VARIANTS = (
    Variant("plain loop", (Rung.LONG,), keeps_lessons=False, races=False),
    Variant("+ kept taught_batches and logits", (Rung.LONG,), races=False),
    Variant("+ early rejection by costs", TWO, races=False),
    Variant("+ rungs", RUNGS),
    Variant("+ shared students", RUNGS, shares_students=True),
)


@dataclass(slots=True)
class Bench:
    """What all variants share."""

    config: RunConfig
    pipeline: Pipeline
    space: SearchSpace
    state: RunState
    tables: CostTables

    def run(self, variant: Variant, root: Path, seconds: float) -> dict[str, object]:
        """Return the row of one variant."""
        folder = create_run_folder(root)
        self.pipeline.folder = folder
        (folder.baseline).write_bytes((root.parent / "setup" / folder.baseline.name).read_bytes())
        bounds = Bounds(self.config.checked_budget(), self.state.baseline.latency.latency_ms, self.state.baseline.val_accuracy)
        effort = self.state.effort
        climbs = Rung.SHORT in variant.ladder
        if not climbs:  # the same training, in one go
            effort = Effort(0, effort.short_steps + effort.long_steps + effort.final_steps, effort.final_steps, effort.scoring_threads)
        recipe = self.config.recovery.recipe(self.state.learning_rate)
        kept = {} if variant.keeps_lessons else {"kept_bytes": 0}
        recovery = Recovery(self.pipeline.intake.module, self.pipeline.data.train, recipe, **kept)
        students = StudentCache() if variant.shares_students else None
        evaluate = PlanEvaluator(self.pipeline, recovery, effort, bounds, students=students)
        known = PriorKnowledge(Predictor(self.space, self.tables), bounds.limit_ms, bounds.baseline_accuracy)
        study = create_study(folder.journal, self.config.sampler, self.space, self.config.seed, known)
        limits = replace(self.config.limits(), seconds=seconds)
        if not climbs:
            limits = replace(limits, finalist_share=0.0, finalists=0)
        images = self.pipeline.data.sizes()["val"]
        search = Search(study, self.space, evaluate, bounds, limits, images, ladder=variant.ladder)
        search.measure_again, search.recover_in_part = evaluate.latency_again, evaluate.recover_in_part
        asked_from = promotion.LEAST_PAIRS
        promotion.LEAST_PAIRS = asked_from if variant.races else 10**9
        try:
            started = time.monotonic()
            search.run(initial_plans(self.space, self.state.removal_order))
            whole_s = time.monotonic() - started
        finally:
            promotion.LEAST_PAIRS = asked_from
        return self._row(variant, search, whole_s)

    def _row(self, variant: Variant, search: Search, whole_s: float) -> dict[str, object]:
        counts, candidates = search.counts(), search.candidates()
        last = Rung.FINAL if Rung.SHORT in variant.ladder else Rung.LONG
        trained = [candidate for candidate in candidates if candidate.outcome.rung is last]
        seconds = search.seconds()
        outside_s = sum(value for name, value in seconds.items() if name not in (*MEASURED, "setup"))
        return {
            "variant": variant.name,
            "trials": counts.all,
            "trained": counts.completed,
            "rejected_early": counts.rejected_early,
            "outraced": counts.outraced,
            "trained_in_full": len(trained),
            "trials_per_hour": 3600.0 * counts.all / whole_s,
            "hypervolume": search.bounds.hypervolume(trained),
            "hypervolume_of_all": search.bounds.hypervolume(candidates),
            "whole_s": whole_s,
            "seconds": seconds,
            "outside_percent": 100.0 * outside_s / whole_s,
            "rungs": [[int(a.lower), int(a.higher), a.plans, a.rank_correlation] for a in search.agreements()],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12.0)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    keep_freed_memory()
    config = read_config(CONFIG).to_json()
    config["time"] |= {"minutes": args.minutes}  # plans the steps of each rung
    timed = parse_config(config, str(CONFIG))
    intake, data = load_and_trace(timed)
    env = environment()
    capabilities = detect(env)
    space = space_for(intake.graph, timed, capabilities)
    rows = []
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        folder: RunFolder = create_run_folder(Path(temporary, "setup"))
        pipeline = Pipeline(intake, data, LocalTarget(), folder, PipelineSettings(timed.seed, capabilities.reduce_range, scoring_threads()))
        state = find_state(pipeline, space, timed, env, StageTimer())
        bench = Bench(timed, pipeline, space, state, CostTables.from_json(folder.read(folder.tables)))
        for index, variant in enumerate(VARIANTS):
            rows.append(bench.run(variant, Path(temporary, str(index)), 60.0 * args.minutes))
            print({name: value for name, value in rows[-1].items() if name not in ("rungs", "seconds")}, flush=True)
    write_result(
        "throughput",
        headlines(rows),
        rows,
        minutes_each=args.minutes,
        steps={name: state.to_json()[f"{name}_steps"] for name in ("short", "long", "final")},
    )


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    """Return the bars of the comparison of the last row with the first."""
    plain, whole = rows[0], rows[-1]
    factor = round(whole["trials_per_hour"] / plain["trials_per_hour"], 2)
    volume = round(whole["hypervolume"] / plain["hypervolume"], 3) if plain["hypervolume"] else None
    outside = whole["outside_percent"]
    return [
        Headline("trials per hour, all savings against the plain loop", factor, "x", FACTOR_BAR, factor >= FACTOR_BAR),
        Headline("hypervolume at equal time, the same", volume, "x", 1.0, bool(volume and volume >= 1.0)),
        Headline("time outside training, accuracy and latency", round(outside, 1), "% of the run", OUTSIDE_BAR, outside < OUTSIDE_BAR),
    ]


if __name__ == "__main__":
    main()
