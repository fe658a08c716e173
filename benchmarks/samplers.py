"""Compares samplers on a surrogate of hundreds of real plans of the CIFAR-10 (JPEG) ResNet-20.

    python benchmarks/samplers.py [--seeds 20] [--trials 400] [--jobs 2]

The surrogate is fitted to benchmarks/results/plan_table.jsonl (see plan_table.py); its error is that of a five-fold cross-validation. All
figures of this benchmark but that error are simulated: they are read off the surrogate. Every sampler starts from the seed plans of a
search; `programme` also from those it solves for. The budget is twice the baseline's speed, the hypervolume that of (drop of accuracy,
latency ratio).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from results_file import Headline, write_result
from scipy.stats import spearmanr
from simulation import median_interval, setting
from surrogate import NEAR_POINTS, Surrogate
from threadpoolctl import threadpool_limits

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.limits import Limits
from paretopress.search.sampler_names import DEFAULT_SAMPLER, PROGRAMME
from paretopress.search.samplers import guided
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans, with_solved
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.samplers.surrogate import Surrogate as SearchSurrogate
from paretopress.search.study.search import Search
from paretopress.spaces.space import SearchSpace
from paretopress.system.atomic_files import write_json

CHECKPOINTS = (50, 100, 200, 400)
# the Gaussian process takes seconds an ask: it runs for fewer trials, of fewer seeds; the ablations for fewer trials
LAST = {"gp": 200, "without seeds": 200, "without tables": 200, "without refitting": 200}
FEWER_SEEDS = {"gp": 2}
RANDOM_TRIALS = 400


class TablesAlone(SearchSurrogate):
    """The ablation: a screen that does not learn from trials."""

    def _ridge(self, which: int, plans: list[Plan], targets: np.ndarray, proposals: list[Plan]) -> np.ndarray:
        tables, baseline = self._known.predictor.tables_alone, self._known.baseline_accuracy
        params = [self._space.params(plan) for plan in proposals]
        if which == 0:
            return np.log([tables.cost(p) for p in params])
        return np.log1p(baseline * -np.expm1([-tables.damage(p) for p in params]))


class Unrefitted(Predictor):
    """The ablation: a predictor that does not learn from trials."""

    def programme(self, trials, baseline_accuracy):
        return super().programme([], baseline_accuracy)


def simulated(surrogate: Surrogate, space: SearchSpace, bounds: Bounds):
    """Return the search's `evaluate` on the surrogate."""

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        ratio, accuracy, macs = surrogate(space.params(plan))
        ms = ratio * bounds.baseline_ms
        latency = Latency(ms, (ms, ms), ratio, (ratio, ratio), ms, ms, bounds.baseline_ms, 16, 100, 0.0)
        rejected = "over the latency budget" if ms > bounds.limit_ms else ""
        return Outcome(rung, 10.0 if rejected else accuracy, int(macs), 1, latency, 1, "", str(number), rejected)

    return evaluate


def prepared(screen: type[SearchSurrogate]) -> None:
    """Keep the linear algebra of one process from taking all cores, and the process from talking; give `guided` its screen."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    guided.Surrogate = screen


def hypervolumes(
    name: str,
    seed: int,
    trials: int,
    space: SearchSpace,
    surrogate: Surrogate,
    seeds: list[Plan],
    known: PriorKnowledge | None,
    bounds: Bounds,
) -> list[float]:
    """Return the hypervolume after each trial of one search."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler(name, space, seed, known))
        limits = Limits(trials=trials, finalists=0, stop_early=False)
        search = Search(study, space, simulated(surrogate, space, bounds), bounds, limits, 5_000, (Rung.SHORT,))
        search.run(seeds)
        # the figures as they were measured: the surrogate has no drift that a latency's pooled interval would have to cover
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        found = [Candidate(t.number, Plan.from_json(t.user_attrs["plan"]), Outcome.from_json(t.user_attrs["outcome"])) for t in done]
    return [bounds.hypervolume([c for c in found if c.number < count]) for count in range(1, trials + 1)]


# what the forked processes run: plans cannot be pickled
CALLS: list[tuple] = []


def hypervolumes_of(index: int) -> list[float]:
    """Return the hypervolumes of one call."""
    return hypervolumes(*CALLS[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--curves", type=Path, help="a file that finished searches of the same table are kept in, and taken from")
    parser.add_argument("--jobs", type=int, default=2, help="seeds that run at once")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = setting()
    space, surrogate, bounds, rows = shared.space, shared.surrogate, shared.bounds, shared.rows
    predictor = Predictor(space, shared.tables)
    known = PriorKnowledge(predictor, bounds.limit_ms, bounds.baseline_accuracy)
    by_hand = initial_plans(space, shared.removal_order)
    with_ladder = with_solved(by_hand, ladder_plans(space, predictor, bounds.limit_ms))
    ours = (DEFAULT_SAMPLER, with_ladder if DEFAULT_SAMPLER == PROGRAMME else by_hand)
    unrefitted = PriorKnowledge(Unrefitted(space, shared.tables), bounds.limit_ms, bounds.baseline_accuracy)
    variants = {
        "guided": ("guided", by_hand, known, SearchSurrogate),
        "programme": ("programme", with_ladder, known, SearchSurrogate),
        "tpe": ("tpe", by_hand, None, SearchSurrogate),
        "nsga2": ("nsga2", by_hand, None, SearchSurrogate),
        "random": ("random", by_hand, None, SearchSurrogate),
        f"{ours[0]}, without seeds": (ours[0], [], known, SearchSurrogate),
        f"{ours[0]}, without tables": (ours[0], by_hand, None, SearchSurrogate),
        f"{ours[0]}, without refitting": (*ours, unrefitted, TablesAlone),
        "gp": ("gp", by_hand, None, SearchSurrogate),
    }
    kept: dict[str, dict[str, list[float]]] = json.loads(args.curves.read_text()) if args.curves and args.curves.is_file() else {}
    curves: dict[str, list[list[float]]] = {}
    for label, (name, seeds, told, screen) in variants.items():
        started = time.monotonic()
        trials = RANDOM_TRIALS if name == "random" else min(args.trials, LAST.get(label.split(", ")[-1], args.trials))
        wanted = range(min(args.seeds, FEWER_SEEDS.get(name, args.seeds)))
        done = {seed: run for seed in wanted if len(run := kept.get(label, {}).get(str(seed), [])) == trials}
        missing = [seed for seed in wanted if seed not in done]
        CALLS[:] = [(name, seed, trials, space, surrogate, seeds, told, bounds) for seed in missing]
        with get_context("fork").Pool(args.jobs, prepared, (screen,)) as pool:
            for seed, run in zip(missing, pool.imap(hypervolumes_of, range(len(missing))), strict=True):
                done[seed] = run
                if args.curves:
                    kept.setdefault(label, {})[str(seed)] = run
                    write_json(args.curves, kept)
        curves[label] = [done[seed] for seed in wanted]
        median = np.median([run[-1] for run in curves[label]])
        print(f"{label}: {median:.3f} after {trials} trials, {time.monotonic() - started:.0f} s", flush=True)
    lines = [*headlines(curves, surrogate, len(rows)), *agreements(predictor, space, rows, bounds.baseline_accuracy)]
    write_result("samplers", lines, table(curves), seeds=args.seeds, surrogate_error=surrogate.error)


def agreements(predictor: Predictor, space: SearchSpace, rows: list[dict[str, object]], baseline_accuracy: float) -> list[Headline]:
    """Return how well the tables alone order the real plans: rank correlations with latency, and with the drop near the baseline."""
    params = [space.params(space.plan(space.defaults() | row["params"])) for row in rows]
    drops = [baseline_accuracy - row["val_accuracy"] for row in rows]
    near = [i for i, drop in enumerate(drops) if drop <= NEAR_POINTS]
    latency = spearmanr([predictor.tables_alone.cost(p) for p in params], [row["ratio"] for row in rows]).statistic
    damage = spearmanr([predictor.tables_alone.damage(params[i]) for i in near], [drops[i] for i in near]).statistic
    return [
        Headline("tables before any trial: rank correlation with the latency ratio", round(float(latency), 3), ""),
        Headline(f"with the drop, plans that lose at most {NEAR_POINTS:g} points", round(float(damage), 3), ""),
    ]


def table(curves: dict[str, list[list[float]]]) -> list[dict[str, object]]:
    """Return a row per sampler and checkpoint: median hypervolume, and how far the default is ahead, paired, with its 95 % interval."""
    rng = np.random.default_rng(0)
    rows = []
    for label, runs in curves.items():
        for count in (c for c in CHECKPOINTS if c <= min(len(runs[0]), len(curves[DEFAULT_SAMPLER][0]))):
            pairs = zip(curves[DEFAULT_SAMPLER], runs, strict=False)  # some samplers ran the first seeds alone
            ahead = np.array([ours[count - 1] - theirs[count - 1] for ours, theirs in pairs])
            rows.append(
                {
                    "sampler": label,
                    "trials": count,
                    "simulated_hypervolume": float(np.median([run[count - 1] for run in runs])),
                    "default_ahead": float(np.median(ahead)),
                    "seeds": len(runs),
                    "default_ahead_ci": list(median_interval(ahead, rng)),
                }
            )
    return rows


def headlines(curves: dict[str, list[list[float]]], surrogate: Surrogate, plans: int) -> list[Headline]:
    """Return the bars of the comparison; all but the first four are simulated."""
    ours, found = DEFAULT_SAMPLER, {(row["sampler"], row["trials"]): row for row in table(curves)}
    lines = [
        Headline("distinct plans evaluated for real", plans, "", 600, plans >= 600),
        Headline("surrogate's error, latency ratio", round(100 * surrogate.error["ratio"], 2), "%"),
        Headline("surrogate's error, accuracy", round(surrogate.error["accuracy"], 2), "points"),
        Headline(f"the same, plans that lose at most {NEAR_POINTS:g} points", round(surrogate.error["accuracy_near"], 2), "points"),
    ]
    for other in ("tpe", "nsga2", "gp", "random"):
        for count in (100, 200):
            row = found.get((other, count))
            if row is not None:
                low = row["default_ahead_ci"][0]
                lines.append(
                    Headline(
                        f"simulated: {ours} ahead of {other} at {count} trials, low end of 95 %",
                        round(low, 4),
                        "",
                        0.0,
                        low > 0.0,
                    )
                )
    target = float(np.median([run[-1] for run in curves["random"]]))
    reached = [next((i + 1 for i, value in enumerate(run) if value >= target), len(run) + 1) for run in curves[ours]]
    needed = float(np.median(reached))
    lines.append(
        Headline(f"simulated: trials of {ours} to random's {len(curves['random'][0])}-trial hypervolume", needed, "", 80, needed <= 80)
    )
    return lines


if __name__ == "__main__":
    main()
