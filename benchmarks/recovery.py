"""What brings back most accuracy per second of recovery, on the CIFAR-10 (JPEG) ResNet-20 with one thread.

    python benchmarks/recovery.py [--core] [--minutes 40]

Every method gets the same seconds for compression, reconstruction, training and batch-norm recalibration together; the number of
steps is planned from the measured time of a step. Seconds are of processor time, so that other processes do not count. Runs of a kind
come in random order, methods, plans and budgets mixed. The float student is scored in
torch on the first 2,000 validation images, never on test data. What a run does once for all candidates (drawing batches, the
teacher's logits) is done before. About 25 minutes.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from recovery_methods import (
    BN_ALONE,
    KD,
    SEED,
    SOLVED_ALONE,
    SOLVED_KD,
    VARIANTS,
    Bench,
    Donor,
    Method,
    inherited,
    timed,
)
from results_file import Headline, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.config import read_config
from paretopress.core.plan import Plan
from paretopress.intake.datasets.data import stack
from paretopress.run.factory import load_and_trace
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.allocator import keep_freed_memory

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "cifar10_resnet20.toml"
VAL_IMAGES, RECONSTRUCTION_IMAGES = 2_000, 512
BUDGETS_S, LONG_S, VARIANT_S, HEIR_S, DONOR_S = (2.0, 5.0, 15.0), 45.0, 10.0, 5.0, 5.0
# the order in which a search on this model removes branches (runs/results/cifar10_resnet20_state.json)
REMOVED = ("layer1.2.conv1", "layer2.2.conv1", "layer1.1.conv1", "layer2.1.conv1")
MIXED = {"layer1.2.conv1": 0, "layer2.2.conv1": 0, "layer2.0.conv1": 16, "layer3.0.conv1": 48, "layer3.1.conv1": 32, "layer3.2.conv1": 32}
RANKS = {"layer2.1.conv2": 16, "layer3.1.conv1": 32, "layer3.1.conv2": 32, "layer3.2.conv1": 32, "layer3.2.conv2": 32}
FOUR = dict.fromkeys(REMOVED, 0)


def plans(space: SearchSpace) -> dict[str, Plan]:
    """Return the plans that methods are compared on."""
    return {
        "2 branches removed": Plan(kept=dict.fromkeys(REMOVED[:2], 0)),
        "4 branches removed": Plan(kept=FOUR),
        "2 removed, 4 groups pruned": Plan(kept=MIXED),
        "1 removed, 5 layers factorised": Plan(kept={REMOVED[0]: 0}, rank=RANKS),
        "50 % of every group": Plan(kept=space.uniform_kept(0.5)),
    }


# plans on which variants are compared
VARIED = ("4 branches removed", "2 removed, 4 groups pruned")
# plan -> a neighbour, one or two groups away, that a student inherits from
NEIGHBOURS = {
    "4 branches removed": Plan(kept=dict.fromkeys(REMOVED[:3], 0)),
    "2 removed, 4 groups pruned": Plan(kept={k: v for k, v in MIXED.items() if k != "layer2.0.conv1"} | {"layer3.2.conv1": 48}),
    "2 branches removed": Plan(kept=FOUR),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One method on one plan within a budget of seconds."""

    method: Method
    plan: str
    budget_s: float


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores students against labels and the teacher on the same validation images."""

    images: Tensor
    labels: Tensor
    teacher: nn.Module
    wanted: list[Tensor] = field(default_factory=list)

    def __call__(self, student: nn.Module) -> dict[str, float]:
        """Return accuracy in percent, and the mean KL divergence from the teacher's outputs in nats."""
        if not self.wanted:
            self.wanted.append(self._logits(self.teacher))
        logits = self._logits(student)
        kl = F.kl_div(logits.log_softmax(1), self.wanted[0].log_softmax(1), reduction="batchmean", log_target=True)
        return {"val_accuracy": round(100.0 * float((logits.argmax(1) == self.labels).float().mean()), 2), "val_kl": round(float(kl), 4)}

    def _logits(self, module: nn.Module) -> Tensor:
        placed = module.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            return torch.cat([placed(x) for x in torch.split(self.images, 250)])


@dataclass(slots=True)
class Pace:
    """Seconds of a method on a plan: all but the steps, and of one step; the latter is corrected by every run."""

    fixed_s: dict[Any, float] = field(default_factory=dict)
    step_s: dict[Any, float] = field(default_factory=dict)

    @staticmethod
    def key(method: Method, plan: str) -> tuple[object, ...]:
        """Return what decides the time: everything but the recipe's rates."""
        return (method.make, method.recipe.batch_size, method.kind, plan)

    def steps(self, job: Job) -> int:
        """Return the steps that fit into the budget, at least 1."""
        key = self.key(job.method, job.plan)
        return max(1, round((job.budget_s - self.fixed_s[key]) / self.step_s[key]))

    def measure(self, bench: Bench, method: Method, name: str, plan: Plan) -> None:
        """Time a run of one step and one of five."""
        one, five = (timed(bench, method, plan, steps)[1] for steps in (1, 5))
        key = self.key(method, name)
        self.step_s[key] = max(five - one, 1e-3) / 4
        self.fixed_s[key] = one - self.step_s[key]

    def learn(self, job: Job, steps: int, seconds: float) -> None:
        """Take a run's time of a step for the next runs."""
        key = self.key(job.method, job.plan)
        self.step_s[key] = max(seconds - self.fixed_s[key], 1e-3) / steps


def jobs(names: Iterable[str], *, core_alone: bool) -> list[Job]:
    """Return all runs but those that inherit."""
    core = [Job(method, plan, budget) for method in (KD, SOLVED_KD) for plan in names for budget in BUDGETS_S]
    varied = [Job(method, plan, VARIANT_S) for method in (SOLVED_KD, *VARIANTS) for plan in VARIED]
    long = [Job(method, VARIED[0], LONG_S) for method in (KD, SOLVED_KD)]
    return shuffled(core) if core_alone else [*shuffled(core), *shuffled(varied), *shuffled(long)]


def heirs(bench: Bench, plan_of: dict[str, Plan], pace: Pace, judge: Judge) -> tuple[list[Job], list[dict[str, Any]]]:
    """Train the neighbours; return the runs that start from them, and the neighbours' rows."""
    made, rows = [], []
    for name, neighbour in NEIGHBOURS.items():
        compressed = bench.compressed(neighbour)
        bench.recovery(SOLVED_KD).reconstruct(compressed, SEED)
        steps = max(1, round(DONOR_S / pace.step_s[Pace.key(SOLVED_KD, name)]))
        bench.recovery(SOLVED_KD).run(compressed.module, temperature=4.0, alpha=0.9, steps=steps, seed=SEED + 1)
        rows.append({"plan": f"neighbour of: {name}", "method": "reconstruction + KD", "budget_s": DONOR_S, "steps": steps})
        rows[-1] |= judge(compressed.module)
        donor = Donor(compressed.module, compressed.kept)
        for title, solve in (("inherited from a neighbour + KD", False), ("inherited, reconstruction + KD", True)):
            method = Method(title, inherited(donor, solve=solve))
            pace.measure(bench, method, name, plan_of[name])
            made.append(Job(method, name, HEIR_S))
    return made, rows


def first_runs(bench: Bench, plan_of: dict[str, Plan], methods: Sequence[Method], pace: Pace, judge: Judge) -> list[dict[str, Any]]:
    """Time every kind of run; return the rows of the methods that do not train."""
    rows = []
    todo: dict[Any, tuple[Method, str]] = {}
    for method in (KD, SOLVED_KD, *methods):
        for name in VARIED if method in VARIANTS else plan_of:
            todo.setdefault(Pace.key(method, name), (method, name))
    for method, name in shuffled(todo.values()):
        if method in (KD, SOLVED_KD):
            alone = BN_ALONE if method is KD else SOLVED_ALONE
            student, seconds = timed(bench, method, plan_of[name], 0)
            row = {"plan": name, "method": alone.name, "budget_s": None, "steps": 0, "seconds": round(seconds, 3)}
            rows.append(row | judge(student))
            print(rows[-1], flush=True)
        pace.measure(bench, method, name, plan_of[name])
    return rows


def shuffled(items: Iterable[Any]) -> list[Any]:
    """Return the items in the run's random order."""
    listed = list(items)
    random.Random(SEED).shuffle(listed)
    return listed


def gains(rows: Sequence[dict[str, Any]], method: str, reference: str, budget_s: float | None) -> list[float]:
    """Return, plan by plan, the points of validation accuracy that a method is ahead of another at the same budget."""
    found = [
        {row["plan"]: row["val_accuracy"] for row in rows if row["method"] == name and row["budget_s"] == budget_s}
        for name in (method, reference)
    ]
    return [found[0][plan] - found[1][plan] for plan in found[0] if plan in found[1]]


def headlines(rows: Sequence[dict[str, Any]], fixed: Sequence[float]) -> list[Headline]:
    """Return what reconstruction gains, what it costs, and where each variant stands."""
    lines = [Headline("compression and reconstruction, median of the plans", round(median(fixed), 3), "s", 1.0, median(fixed) <= 1.0)]
    compared = [(SOLVED_ALONE.name, BN_ALONE.name, None)]
    compared += [(SOLVED_KD.name, KD.name, budget) for budget in (*BUDGETS_S, LONG_S)]
    compared += [(method.name, SOLVED_KD.name, VARIANT_S) for method in VARIANTS]
    heirs_named = ("inherited from a neighbour + KD", "inherited, reconstruction + KD")
    compared += [(name, SOLVED_KD.name, HEIR_S) for name in heirs_named]
    for method, reference, budget in compared:
        found = gains(rows, method, reference, budget)
        if found:
            spread = f", {min(found):+.2f} to {max(found):+.2f} over {len(found)} plans"
            when = "" if budget is None else f" at {budget:g} s"
            solved = method in (SOLVED_KD.name, SOLVED_ALONE.name)
            name = f"{method} against {reference}{when}{spread}"
            gain = round(mean(found), 2)
            lines.append(Headline(name, gain, "points", 0.0 if solved else None, gain > 0.0 if solved else None))
    return lines


def play(runs: Sequence[Job], bench: Bench, plan_of: dict[str, Plan], pace: Pace, judge: Judge, deadline: float) -> list[dict[str, Any]]:
    """Return a row per run, of as many as end before the deadline."""
    rows: list[dict[str, Any]] = []
    for job in runs:
        if time.monotonic() > deadline:
            break
        steps = pace.steps(job)
        student, seconds = timed(bench, job.method, plan_of[job.plan], steps)
        pace.learn(job, steps, seconds)
        row = {"plan": job.plan, "method": job.method.name, "budget_s": job.budget_s, "steps": steps, "seconds": round(seconds, 2)}
        rows.append(row | judge(student))
        print(f"{len(rows)}/{len(runs)} {rows[-1]}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", action="store_true", help="compare KD with and without reconstruction alone")
    parser.add_argument("--minutes", type=float, default=40.0, help="stop then, and write what there is")
    args = parser.parse_args()
    deadline = time.monotonic() + 60.0 * args.minutes
    torch.set_num_threads(1)
    keep_freed_memory()
    intake, data = load_and_trace(read_config(CONFIG))
    judge = Judge(*stack(data.val, VAL_IMAGES), intake.module)
    bench = Bench(intake, data.train, stack(data.train, RECONSTRUCTION_IMAGES, SEED)[0])
    plan_of = plans(SearchSpace(intake.graph, SpaceOptions(channel_step=8)))
    runs = jobs(plan_of, core_alone=args.core)
    methods = list({id(job.method): job.method for job in runs}.values())
    for method in methods:
        bench.warm(method, 8)
    pace = Pace()
    rows = first_runs(bench, plan_of, methods, pace, judge)
    for method in methods:
        longest = max(pace.steps(job) for job in runs if job.method is method)
        bench.warm(method, int(1.3 * longest) + 8)
    if not args.core:
        more, made = heirs(bench, plan_of, pace, judge)
        runs, rows = [*shuffled(more), *runs], [*rows, *made]
    played = play(runs, bench, plan_of, pace, judge, deadline)
    fixed = [row["seconds"] for row in rows if row["method"] == SOLVED_ALONE.name]
    rows = sorted([*rows, *played], key=lambda row: (row["plan"], row["budget_s"] or 0.0, row["method"]))
    left_out = len(runs) - len(played)
    write_result("recovery", headlines(rows, fixed), rows, baseline=judge(intake.module), val_images=VAL_IMAGES, left_out=left_out)


if __name__ == "__main__":
    main()
