"""What a second worker buys on one host, whether latencies agree beside its training, and workers on Ray and from another checkout.

    pip install 'paretopress[ray]'
    python benchmarks/workers.py [--minutes 10] [--parts host ray checkouts]

`host`: the search of the CIFAR-10 (JPEG) ResNet-20 with one and with two workers, for so many minutes each; afterwards every file of the
two-worker run is measured again with nothing else running. `ray`: a small shared run with two workers that a local Ray places. `checkouts`:
two clones of this repository, each with a process of its own, on one PostgreSQL run. Nothing else may run meanwhile. Writes
results/workers.json, where rows of parts that are not run stay.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from faults import Run, ended, shared
from loopback_database import running_database
from results_file import Headline, recorded_rows, write_result

from paretopress.api import start_run
from paretopress.config import parse_config, read_config
from paretopress.core.outcome import Latency
from paretopress.report.live import LiveView
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.system.event_log import read_events
from paretopress.system.run_folder import RunFolder
from paretopress.targets.local import LocalTarget

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "runs" / "cifar10_resnet20.toml"
AGREE_BAR = 90.0


def searched(folder: Path, minutes: float, count: int) -> RunFolder:
    """Return the run of a search with so many workers."""
    asked = read_config(CONFIG).to_json()
    asked["time"] |= {"minutes": minutes, "stop_early": False}
    asked["workers"] |= {"count": count}
    asked["disk"] = {"cache_mb": 0}
    run = folder / f"{count}-workers"
    with LiveView() as view:
        start_run(parse_config(asked, str(CONFIG)), run, view)
    return RunFolder(run)


def host(folder: Path, minutes: float) -> list[dict[str, object]]:
    """Return a row per number of workers, and one per file that was measured beside training and alone."""
    rows: list[dict[str, object]] = []
    for count in (1, 2):
        run = searched(folder, minutes, count)
        trials = [event for event in read_events(run.log) if event["event"] == "trial"]
        busy_s = sum(event["seconds"] for event in trials) / count
        rows.append({"part": "host", "workers": count, "trials": len(trials), "trials_per_hour": 3600.0 * len(trials) / busy_s})
    first = {}
    for event in read_events(run.latencies):
        first.setdefault(event["onnx_sha256"], Latency.from_json(event["latency"]))
    outcomes = [candidate.outcome for candidate in Records(open_study(run.journal)).trial_candidates()]
    there = [outcome for outcome in outcomes if outcome.onnx_path and (run.root / outcome.onnx_path).is_file()]
    return rows + [compared(run, outcome.onnx_path, first[outcome.onnx_sha256]) for outcome in there]


def compared(run: RunFolder, onnx_path: str, beside: Latency) -> dict[str, object]:
    """Return the row of a file: its first latency in the run, and one of now."""
    with np.load(run.samples, allow_pickle=False) as samples:
        feed = {name: images[:1] for name, images in samples.items()}
    alone = LocalTarget().measure(
        run.root / onnx_path,
        run.baseline,
        baseline_ms=beside.latency_ms / beside.ratio,
        limit_ms=None,
        feed=feed,
        rng=np.random.default_rng(0),
    )
    agree = beside.ratio_ci[0] <= alone.ratio_ci[1] and alone.ratio_ci[0] <= beside.ratio_ci[1]
    figures = {"beside": beside.ratio, "beside_ci": beside.ratio_ci, "alone": alone.ratio, "alone_ci": alone.ratio_ci}
    return {"part": "latency", "file": onnx_path} | figures | {"agree": agree}


def on_ray(folder: Path) -> list[dict[str, object]]:
    """Return the row of a shared run with two workers on a local Ray."""
    with running_database(folder / "database") as database:
        run = Run(folder / "run", trials=24, steps=40)
        with (run.where / "run.toml").open("a") as file:
            file.write("placed = 2\n")
        options = ("--storage", database.url, "--artifacts", folder / "artifacts", "--ray", "local")
        ended(run.begin(*options), 0)
        return [{"part": "ray", "trials_by_worker": run.by_worker()} | run.found({})]


def of_two_checkouts(folder: Path) -> list[dict[str, object]]:
    """Return the row of a run that a process from another clone of this repository joins."""
    clones = [folder / name for name in ("here", "there")]
    for clone in clones:
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    with running_database(folder / "database") as database:
        run, search, url = shared(folder, database, trials=16, steps=40, path=clones[0])
        other = Run(folder / "other", path=clones[1])
        worker = other.start("worker", url, "--model", "user.py:model", "--data", "user.py:data", "--artifacts", folder / "artifacts")
        for process in (search, worker):
            ended(process, 0)
        return [{"part": "checkouts", "trials_by_worker": run.by_worker()} | run.found({})]


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    """Return the figures of the parts that were run."""
    lines = []
    rates = {row["workers"]: row["trials_per_hour"] for row in rows if row["part"] == "host"}
    if rates:
        lines += [Headline(f"trials per hour, {count} workers", round(rate, 1), "") for count, rate in rates.items()]
        lines.append(Headline("two workers against one", round(rates[2] / rates[1], 2), "x"))
    files = [row for row in rows if row["part"] == "latency"]
    if files:
        share = 100.0 * float(np.mean([row["agree"] for row in files]))
        apart = 100.0 * float(np.median([abs(row["beside"] / row["alone"] - 1.0) for row in files]))
        lines.append(
            Headline(
                f"files whose intervals beside training and alone agree, of {len(files)}",
                round(share, 1),
                "%",
                AGREE_BAR,
                share >= AGREE_BAR,
            )
        )
        lines.append(Headline("median difference of the ratio", round(apart, 2), "%"))
    for row in rows:
        if "trials_by_worker" in row:
            working, met = len(row["trials_by_worker"]), not row["wrong"]
            least = 3 if row["part"] == "ray" else 2  # the search works too
            lines.append(
                Headline(f"{row['part']}: processes that evaluated trials of one run", working, "", least, met and working >= least)
            )
    return lines


PARTS = {"ray": on_ray, "checkouts": of_two_checkouts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--parts", nargs="+", choices=["host", *PARTS], default=["host", *PARTS])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        for name in args.parts:
            (folder := Path(temporary, name)).mkdir()
            rows = [row for row in recorded_rows("workers") if row["part"] not in ({"host", "latency"} if name == "host" else {name})]
            rows += host(folder, args.minutes) if name == "host" else PARTS[name](folder)
            print(rows[-1], flush=True)
            write_result("workers", headlines(rows), rows)


if __name__ == "__main__":
    main()
