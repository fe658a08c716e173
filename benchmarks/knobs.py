"""What each knob is worth on the CIFAR-10 (JPEG) ResNet-20: the same search with everything free, and with one knob frozen at a time.

    python benchmarks/knobs.py [--seeds 20] [--trials 200] [--workers 2] [--real MINUTES] [--without KNOB] [--runs DIR]

A knob's worth is what the free search's hypervolume is ahead of the one with the knob frozen, paired by seed; the interval is that of the
median, by bootstrap. Where it contains zero the knob buys nothing on this target. These figures are simulated: they are read off the
surrogate that samplers.py uses, fitted to benchmarks/results/plan_table.jsonl; they are as good as its error, which stands beside them.

With --real the search of runs/cifar10_resnet20.toml is also made for real, for MINUTES each: free, and without KNOB, else the one that is
worth most by the surrogate. That is one pair, so it has no interval. The simulated part is then taken from benchmarks/results/knobs.json
if it was made of the same table with the same options, and a finished or interrupted search in --runs is used or gone on with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from plan_table import CONFIG, TABLE
from real_search import search_to_its_end
from results_file import RESULTS, Headline, write_result
from samplers import hypervolumes
from simulation import median_interval, setting
from surrogate import NEAR_POINTS
from threadpoolctl import threadpool_limits

from paretopress.config import RunConfig, parse_config, read_config
from paretopress.core.pareto import hypervolume_2d
from paretopress.errors import SearchFailedError
from paretopress.search.sampler_names import DEFAULT_SAMPLER, PROGRAMME
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans, with_solved
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import Params, SearchSpace
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import RunFolder

CHECKPOINTS = (50, 100, 200)
NOTHING = "buys nothing on this target"
FULL_RECOVERY = 3


def without(space: SearchSpace, knob: Knob | None) -> SearchSpace:
    """Return the space with a knob frozen, or with everything free."""
    return SearchSpace(space.graph, replace(space.options, frozen=frozenset({knob} if knob else ())))


def simulated_search(job: tuple[Knob | None, int, int]) -> list[float]:
    """Return the simulated hypervolume after each trial of one search; a job is (frozen knob, seed, trials)."""
    knob, seed, trials = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = setting()
    space, bounds = without(shared.space, knob), shared.bounds

    def surrogate(params: Params) -> tuple[float, float, float]:
        return shared.surrogate(shared.space.defaults() | params)  # what a frozen space leaves out is at its default

    known = PriorKnowledge(Predictor(space, shared.tables), bounds.limit_ms, bounds.baseline_accuracy)
    seeds = initial_plans(space, shared.removal_order)
    if DEFAULT_SAMPLER == PROGRAMME:
        seeds = with_solved(seeds, ladder_plans(space, known.predictor, known.limit_ms))
    return hypervolumes(DEFAULT_SAMPLER, seed, trials, space, surrogate, seeds, known, bounds)


def simulated_rows(seeds: int, trials: int, workers: int) -> list[dict[str, object]]:
    """Return a row per knob and checkpoint."""
    searches: list[Knob | None] = [None, *Knob]
    jobs = [(knob, seed, trials) for seed in range(seeds) for knob in searches]
    # one thread each: the surrogate predicts a row at a time
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), threadpool_limits, (1,)) as pool:
        curves: dict[Knob | None, list[list[float]]] = {knob: [] for knob in searches}
        for (knob, seed, _), curve in zip(jobs, pool.map(simulated_search, jobs), strict=True):
            curves[knob].append(curve)
            if knob == searches[-1]:
                print(f"seed {seed}: {curves[None][-1][-1]:.3f} with everything free", flush=True)
    return [
        worth(knob, count, [run[count - 1] for run in curves[None]], [run[count - 1] for run in curves[knob]])
        for knob in Knob
        for count in dict.fromkeys([*(c for c in CHECKPOINTS if c < trials), trials])
    ]


def worth(knob: Knob, trials: int, free: Sequence[float], frozen: Sequence[float]) -> dict[str, object]:
    """Return the row of a knob: the median of the paired differences of hypervolume with its 95 % interval by bootstrap."""
    ahead = np.array(free) - np.array(frozen)
    low, high = median_interval(ahead, np.random.default_rng(0))
    return {
        "kind": "simulated",
        "knob": str(knob),
        "trials": trials,
        "simulated_hypervolume_free": float(np.median(free)),
        "simulated_hypervolume_frozen": float(np.median(frozen)),
        "simulated_worth": float(np.median(ahead)),
        "simulated_worth_ci": [low, high],
        "verdict": NOTHING if low <= 0.0 <= high else "buys hypervolume" if low > 0.0 else "costs hypervolume",
    }


def dearest(rows: Sequence[dict[str, object]]) -> Knob:
    """Return the knob that is worth most after the last trial."""
    return Knob(max(last_rows(rows), key=lambda row: row["simulated_worth"])["knob"])


def last_rows(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the simulated rows after the last trial."""
    simulated = [row for row in rows if row["kind"] == "simulated"]
    return [row for row in simulated if row["trials"] == max(row["trials"] for row in simulated)]


def stored_rows(simulation: dict[str, object]) -> list[dict[str, object]]:
    """Return the simulated rows of the result file if they were made alike, else none."""
    path = RESULTS / "knobs.json"
    value = json.loads(path.read_text()) if path.is_file() else {}
    return [row for row in value["rows"] if row["kind"] == "simulated"] if value.get("simulation") == simulation else []


def searched_for_real(config: RunConfig, run: Path) -> dict[str, object]:
    """Return front.json of a search, made now, gone on with, or finished before."""
    with suppress(SearchFailedError):  # a search in which nothing meets the budget has a front all the same: an empty one
        search_to_its_end(config, run)
    return json.loads(RunFolder(run).front.read_text())


def measured_row(minutes: float, runs: Path, frozen: Sequence[Knob]) -> dict[str, object]:
    """Return the row of a real search: its hypervolume on validation data, and that of its fully recovered points on test data."""
    asked = read_config(CONFIG).to_json()
    asked["time"] |= {"minutes": minutes}
    asked["space"] |= {"frozen": list(frozen)}
    asked["disk"] = {"cache_mb": 0}  # neither search is helped by the other
    front = searched_for_real(parse_config(asked, str(CONFIG)), runs / ("free" if not frozen else "-".join(frozen)))
    recovered = [point for point in front["points"] if point["rung"] == FULL_RECOVERY]
    tested = [(p["latency_vs_baseline"], front["baseline"]["test_accuracy"] - p["test_accuracy"]) for p in recovered]
    best = next((point for point in front["points"] if point["trial"] == front["best"]), None)
    return {
        "kind": "measured",
        "frozen": [str(knob) for knob in frozen],
        "minutes": minutes,
        "measured_hypervolume": front["hypervolume"],
        "measured_hypervolume_test": hypervolume_2d(tested, (1.0, 10.0)),
        "fully_recovered": len(recovered),
        "best_speedup": 1.0 / best["latency_vs_baseline"] if best else None,
        "best_test_drop": front["baseline"]["test_accuracy"] - best["test_accuracy"] if best else None,
        "trials": front["trials"],
        "elapsed_s": front["elapsed_s"],
    }


def headlines(rows: Sequence[dict[str, object]], surrogate_error: dict[str, float], plans: int) -> list[Headline]:
    """Return the figures; a simulated or measured one is called so."""
    lines = [
        Headline("distinct plans that the surrogate is fitted to", plans, ""),
        Headline("surrogate's error, latency ratio", round(100 * surrogate_error["ratio"], 2), "%"),
        Headline("surrogate's error, accuracy", round(surrogate_error["accuracy"], 2), "points"),
        Headline(f"the same, plans that lose at most {NEAR_POINTS:g} points", round(surrogate_error["accuracy_near"], 2), "points"),
    ]
    for row in sorted(last_rows(rows), key=lambda row: -row["simulated_worth"]):
        low, high = row["simulated_worth_ci"]
        name = f"simulated: {row['knob']} {row['verdict']}, 95 % {low:.4f} to {high:.4f}"
        lines.append(Headline(name, round(row["simulated_worth"], 4), f"of {row['simulated_hypervolume_free']:.3f}"))
    measured = [row for row in rows if row["kind"] == "measured"]
    for row in measured:
        what = "everything free" if not row["frozen"] else f"{', '.join(row['frozen'])} frozen"
        name = f"measured: hypervolume of a search of {row['minutes']:g} minutes, {what}"
        lines.append(Headline(name, round(row["measured_hypervolume"], 4), ""))
    if len(measured) == 2:
        free, frozen = measured
        ahead = free["measured_hypervolume"] - frozen["measured_hypervolume"]
        lines.append(Headline(f"measured: what {', '.join(frozen['frozen'])} buys, one pair, no interval", round(ahead, 4), ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--real", type=float, metavar="MINUTES", help="also make two real searches, of so many minutes each")
    parser.add_argument("--without", type=Knob, choices=list(Knob), help="which knob the second real search leaves out")
    parser.add_argument("--runs", type=Path, default=Path("runs/knobs"), help="where the real searches lie")
    args = parser.parse_args()
    simulation = {
        "plan_table_sha256": hashlib.sha256(TABLE.read_bytes()).hexdigest(),
        "sampler": DEFAULT_SAMPLER,
        "seeds": args.seeds,
        "trials": args.trials,
    }
    rows = stored_rows(simulation) if args.real else []
    rows = rows or simulated_rows(args.seeds, args.trials, args.workers)
    if args.real:
        keep_freed_memory()
        rows += [measured_row(args.real, args.runs, frozen) for frozen in ((), (args.without or dearest(rows),))]
    error = setting().surrogate.error
    lines = headlines(rows, error, len(setting().rows))
    write_result("knobs", lines, rows, simulation=simulation, surrogate_error=error)


if __name__ == "__main__":
    main()
