"""A study of many workers, simulated: whether trials are lost or counted twice, and how the search's own work grows with them.

    python benchmarks/scale.py --parts postgresql --faster 2.5
    python benchmarks/scale.py --parts proxy --faster 1.5
    python benchmarks/scale.py --parts journal --faster 16

Real are Optuna, the storage, the default sampler over 60 parameters, the climbing of the rungs and all records; simulated is what a trial
does: it waits for as long as its rungs take on a small board (median 3, 10 and 25 s, divided by --faster), and its figures come from a
formula. `--processes` stand for hosts, each with `--workers`. Three parts: PostgreSQL, the journal file with the workers of one process,
and PostgreSQL behind Optuna's gRPC proxy (pip install 'paretopress[grpc]'). Reported by the number of trials that the study held: the
seconds of an ask, of a tell, and of all that lies between one evaluation and the next; memory of a process; size of the storage. Writes
results/scale.json, where rows of parts that are not run stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import optuna
import psutil
import psycopg
from loopback import free_port
from loopback_database import running_database
from optuna.trial import TrialState
from results_file import Headline, recorded_rows, write_result

from paretopress.commands.app import KNOWN_WARNINGS
from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, TensorSpec
from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds
from paretopress.search.limits import Limits
from paretopress.search.sampler_names import DEFAULT_SAMPLER
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.tables import CostTables
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.places import StudyPlace
from paretopress.search.storage.records import COPY_OF, PLAN
from paretopress.search.storage.studies import open_study
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.event_log import EventLog, read_events

LAYERS, CHANNELS, BASELINE_MS, BASELINE = 29, 64, 10.0, 90.0
RUNG_S = {Rung.COSTS: 3.0, Rung.SHORT: 10.0, Rung.LONG: 25.0}
ASK_BAR_S = 1.0
STEPS = (100, 300, 1_000, 3_000, 10_000)
LAST = 1_000


def made_up() -> tuple[SearchSpace, Bounds, PriorKnowledge]:
    """Return a space of 60 parameters, its bounds, and tables that are right within a factor."""
    names = [f"layer{i:02d}" for i in range(LAYERS)]
    layers = tuple(Layer(n, LayerKind.CONV, CHANNELS, CHANNELS, (3, 3), (1, 1), 1, 10**6, 36_864, (CHANNELS, 8, 8)) for n in names)
    groups = tuple(ChannelGroup(name, CHANNELS, (name,)) for name in names)
    bits = tuple(BitGroup(name, (name,), (32, 8)) for name in names)
    graph = ModelGraph((TensorSpec("input", (3, 8, 8)),), (TensorSpec("output", (10,)),), layers, groups, (), bits, ())
    space = SearchSpace(graph, SpaceOptions(channel_step=8, frozen=frozenset({Knob.RANK})))
    bounds = Bounds(Budget(speedup=1.3), BASELINE_MS, BASELINE)
    layer_ms = {name: {32: 0.3, 8: 0.2} for name in names}
    damages = {f"prune/{n}": {share / 8: 0.01 * share / 8 for share in range(8)} for n in names}
    damages |= {f"bits/{n}": {32: 0.0, 8: 0.001} for n in names}
    tables = CostTables(layer_ms, {32: BASELINE_MS - 0.3 * LAYERS, 8: 0.5}, 0.01, damages)
    return space, bounds, PriorKnowledge(Predictor(space, tables), bounds.limit_ms, BASELINE)


def outcome_of(plan: Plan, rung: Rung, number: int) -> Outcome:
    """Return a plan's made-up figures: layers differ in what they cost and in what they bear."""
    weights = np.random.default_rng(7).uniform(0.3, 1.7, (2, LAYERS))
    left = np.array([1.0 - plan.kept.get(f"layer{i:02d}", CHANNELS) / CHANNELS for i in range(LAYERS)])
    narrow = np.array([f"layer{i:02d}" in plan.bits for i in range(LAYERS)])
    noise = np.random.default_rng(number).normal(size=2)
    ms = BASELINE_MS - 0.3 * float(weights[0] @ (left + 0.3 * narrow * (1.0 - left)))
    ms *= 1.0 + 0.01 * noise[0]
    drop = float(weights[1] @ (1.5 * left**2 + 0.05 * narrow)) * {Rung.COSTS: 3.0, Rung.SHORT: 1.5}.get(rung, 1.0)
    latency = Latency(ms, (0.98 * ms, 1.02 * ms), ms / BASELINE_MS, (0.098 * ms, 0.102 * ms), ms, ms, BASELINE_MS, 8, 100, 0.1)
    return Outcome(rung, BASELINE - drop + 0.2 * float(noise[1]), int(10**7 * ms), 10, latency, 1_000, "model.onnx", f"{number:064d}")


class Notes:
    """One process's log: a JSON line for each timing; several threads may write."""

    def __init__(self, path: Path) -> None:
        self._log, self._ended = EventLog(path), threading.local()

    def __call__(self, event: str, **fields: object) -> None:
        self._log(event, fields)

    @contextmanager
    def evaluation(self, number: int, rung: Rung) -> Iterator[None]:
        """Note an evaluation, and what lay between it and the one before it in the same worker, where another trial's."""
        before = getattr(self._ended, "last", None)
        if before is not None and before[0] != number:
            self("between", s=time.monotonic() - before[1], size=number, rss=psutil.Process().memory_info().rss)
        yield
        self._ended.last = number, time.monotonic()
        self("evaluated", trial=number, rung=int(rung))


def work(where: Path | StudyPlace, log: Path, name: str, workers: int, trials: int, faster: float) -> None:
    """Take part in the study until it is over."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, bounds, known = made_up()
    notes, study = Notes(log), create_study(where, DEFAULT_SAMPLER, space, 0, known)

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        with notes.evaluation(number, rung):
            time.sleep(RUNG_S[rung] * np.random.default_rng((number, rung)).lognormal(0.0, 0.3) / faster)
        return outcome_of(plan, rung, number)

    def again(outcome: Outcome) -> Latency:
        time.sleep(1.0 / faster)
        return outcome.latency

    limits = Limits(trials=trials, finalists=0, stop_early=False)
    leases = Leases(study, name) if isinstance(where, StudyPlace) else None
    search = Search(study, space, evaluate, bounds, limits, 5_000, measure_again=again, workers=workers, leases=leases)
    ask, tell = study.ask, study.tell

    def timed_ask(*args: object, **kwargs: object) -> optuna.Trial:
        started = time.monotonic()
        trial = ask(*args, **kwargs)
        notes("ask", s=time.monotonic() - started, size=trial.number)
        return trial

    def timed_tell(trial: optuna.Trial, *args: object, **kwargs: object) -> object:
        started = time.monotonic()
        told = tell(trial, *args, **kwargs)
        notes("tell", s=time.monotonic() - started, size=trial.number)
        return told

    study.ask, study.tell = timed_ask, timed_tell
    search.run(initial_plans(space, ())) if name == "0" else search.work()


def part(name: str, where: Path | StudyPlace, folder: Path, args: argparse.Namespace, processes: int, trials: int) -> dict[str, object]:
    """Return the row of one storage: what its processes noted, checked against the study."""
    space, _, known = made_up()
    create_study(where, DEFAULT_SAMPLER, space, 0, known)
    place, logs = str(where) if isinstance(where, Path) else f"{where.url}#{where.name}", folder / name
    logs.mkdir()
    shared = ["--trials", trials, "--workers", args.workers, "--faster", args.faster]
    commands = [[sys.executable, __file__, *map(str, shared), "--join", place, "--log", logs / f"{i}.jsonl"] for i in range(processes)]
    started = time.monotonic()
    running = [subprocess.Popen(command) for command in commands]
    for process in running:
        if process.wait():
            raise SystemExit(f"a process of the part {name} ended with {process.returncode}")
    notes = [note for log in logs.iterdir() for note in read_events(log)]
    asked = {"storage": name, "processes": processes, "workers": processes * args.workers, "faster": args.faster}
    asked |= {"whole_s": time.monotonic() - started}
    return asked | {"storage_mb": storage_mb(where)} | checked(notes, where)


@contextmanager
def proxy(url: str) -> Iterator[str]:
    """Optuna's gRPC proxy before a database, in a process of its own; yields the URL that workers join with."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "paretopress", "proxy", url, "--port", str(port)])
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30.0)


def storage_mb(where: Path | StudyPlace) -> float | None:
    """Return the size of a journal, or of a database with all studies that it holds."""
    if isinstance(where, Path):
        return where.stat().st_size / 1e6
    if where.url.startswith("grpc"):
        return None  # what is behind the proxy is counted with the database
    with psycopg.connect(where.url.replace("+psycopg", "")) as connection:
        return connection.execute("select pg_database_size(current_database())").fetchone()[0] / 1e6


def checked(notes: list[dict[str, object]], where: Path | StudyPlace) -> dict[str, object]:
    """Return the figures of a part by study size, and what was lost or done twice."""
    trials = open_study(where).get_trials(deepcopy=False)
    complete = {t.number for t in trials if t.state is TrialState.COMPLETE}
    copies = {t.number for t in trials if COPY_OF in t.user_attrs}
    evaluated = Counter((n["trial"], n["rung"]) for n in notes if n["event"] == "evaluated")
    sizes = defaultdict(lambda: defaultdict(list))
    for note in notes:
        if "size" in note:
            size = next((step for step in STEPS if note["size"] < step), STEPS[-1])
            sizes[size][note["event"]].append(note["s"])
            if "rss" in note:
                sizes[size]["rss"].append(note["rss"])
    return {
        "complete": len(complete),
        "failed": sum(t.state is TrialState.FAIL and PLAN in t.user_attrs for t in trials),
        "running": sum(t.state is TrialState.RUNNING for t in trials),
        "lost": len({trial for trial, _ in evaluated} - complete),
        "unevaluated": len(complete - copies - {trial for trial, _ in evaluated}),
        "twice": sum(count > 1 for count in evaluated.values()),
        "last_ask_p95_s": float(np.quantile([n["s"] for n in notes if n["event"] == "ask" and n["size"] >= len(trials) - LAST], 0.95)),
        "by_size": {size: summary(figures) for size, figures in sorted(sizes.items())},
    }


def summary(figures: dict[str, list[float]]) -> dict[str, float]:
    """Return the 95th percentile of the seconds, and the most memory of a process in MB."""
    found = {f"{kind}_p95_s": float(np.quantile(values, 0.95)) for kind, values in figures.items() if kind != "rss"}
    return found | {"asks": len(figures["ask"]), "process_mb": max(figures["rss"], default=0.0) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--workers", type=int, default=8, help="of each process")
    parser.add_argument("--faster", type=float, default=8.0, help="what the trials' waiting is divided by")
    parser.add_argument("--parts", nargs="+", default=["postgresql", "journal", "proxy"])
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.join:
        for known in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", known)
        where = StudyPlace.parse(args.join) if "#" in args.join else Path(args.join)
        work(where, args.log, args.log.stem, args.workers, args.trials, args.faster)
        return
    rows = [row for row in recorded_rows("scale") if row["storage"] not in args.parts]
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        folder = Path(temporary)
        with running_database(folder / "database") if set(args.parts) - {"journal"} else nullcontext() as database:
            url = database.url if database else ""
            for name in args.parts:
                with proxy(url) if name == "proxy" else nullcontext(url) as reached:
                    where = folder / "journal.log" if name == "journal" else StudyPlace(reached, name)
                    rows.append(part(name, where, folder, args, 1 if name == "journal" else args.processes, args.trials))
                print(json.dumps(rows[-1], indent=1), flush=True)
    write_result("scale", headlines(rows), rows, simulated=True)


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    """Return the bars; every figure is of a simulated study, its timings are measured."""
    lines = []
    for row in rows:
        name, sizes = f"{row['storage']}, {row['workers']} workers", {int(size): figures for size, figures in row["by_size"].items()}
        wrong = sum(row[kind] for kind in ("lost", "unevaluated", "twice", "failed", "running"))
        fewest, most = min(sizes), max(sizes)
        ask, linear = sizes[most]["ask_p95_s"], most / fewest
        growth = ask / sizes[fewest]["ask_p95_s"]
        last = [row["last_ask_p95_s"]] if "last_ask_p95_s" in row else []  # earlier results have none
        lines += [
            Headline(f"{name}: trials lost, failed, left over or counted twice, of {row['complete']}", wrong, "", 0.0, wrong == 0),
            Headline(f"{name}: an ask at up to {most} trials, 95th percentile", round(ask, 3), "s", ASK_BAR_S, ask < ASK_BAR_S),
            *(Headline(f"{name}: an ask of the last {LAST}, 95th percentile", round(s, 3), "s", ASK_BAR_S, s < ASK_BAR_S) for s in last),
            Headline(f"{name}: that against up to {fewest} trials", round(growth, 2), "x", linear, growth <= linear),
            Headline(f"{name}: a tell, 95th percentile", round(sizes[most]["tell_p95_s"], 3), "s"),
            Headline(f"{name}: from one evaluation to the next, 95th percentile", round(sizes[most]["between_p95_s"], 3), "s"),
            Headline(f"{name}: memory of a process", round(sizes[most]["process_mb"]), "MB"),
        ]
        if row["storage_mb"] is not None:
            lines.append(Headline(f"{name}: size of the storage", round(row["storage_mb"], 1), "MB"))
    return lines


if __name__ == "__main__":
    main()
