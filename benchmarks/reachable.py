"""Whether a search ends with a point within every bound where one is known to be reachable.

    python benchmarks/reachable.py [--only NETWORK] [--hour 60] [--minutes 15] [--steps N] [--keep FOLDER]

For each of three networks an hour's search says how fast the fastest model that loses at most 1.0 point (on validation data) is; then
searches of 15 minutes get a budget of 60, 80 and 95 % of that speed-up with the same bound on the drop. Bars: a point within every bound
in all of the first two rows and in two of three of the last; elsewhere the nearest points must be shown. Five and a quarter hours in all,
with nothing else running; every search is written down when it ends, and one that is written down is not run again. `--steps` ends after
so many searches. Every search starts with an empty cache but for the probe of this machine, so that none profits from another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_file import Headline, recorded_rows, write_result

from paretopress.targets.probe.report_cache import cache_folder

HERE = Path(__file__).resolve().parent
NAME, MAX_DROP, SHARES = "reachable", 1.0, (0.6, 0.8, 0.95)
# the hour's search: its budget is one that many models meet, and its finalists are spread up to the bound on the drop
HOUR_SPEEDUP = 1.3
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """A model and its data, by their specs."""

    model: str
    data: str


NETWORKS = {
    "fashion_residual": Network(f"{HERE}/fashion_photos.py:residual", f"{HERE}/fashion_photos.py:data"),
    "cifar10_resnet20": Network(f"{HERE}/cifar10.py:resnet20", f"{HERE}/cifar10.py:data"),
    "cifar10_mobilenet_v2_050": Network(f"{HERE}/cifar10.py:mobilenet_v2_050", f"{HERE}/cifar10.py:data"),
}


def searched(network: Network, speedup: float, minutes: float, keep: Path | None) -> Row:
    """Return what one search of the command line ended with; its folder is kept where `keep` says, else removed."""
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        caches, run = Path(temporary, "cache"), keep or Path(temporary, "run")
        if cache_folder().is_dir():
            shutil.copytree(cache_folder(), caches / "paretopress" / cache_folder().name)
        options = ("--speedup", speedup, "--max-drop", MAX_DROP, "--minutes", minutes, "--run", run)
        command = [sys.executable, "-m", "paretopress", "search", "--model", network.model, "--data", network.data, *map(str, options)]
        started = time.monotonic()
        done = subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(caches)}, capture_output=True, text=True, check=False)
        duration_s = time.monotonic() - started
        if not (run / "front.json").is_file():
            return {"exit_code": done.returncode, "error": done.stderr.strip().splitlines()[-1:], "duration_s": round(duration_s, 1)}
        front = json.loads((run / "front.json").read_text())
    return {"exit_code": done.returncode, "duration_s": round(duration_s, 1), "minutes": minutes, "speedup": speedup} | ended(front)


def ended(front: Row) -> Row:
    """Return the points of a front.json, and the nearest where there are none."""
    return {
        "trials": front["trials"],
        "stopped_early": bool(front["stopped_early"]),
        "seconds": front["seconds"],
        "baseline": {key: front["baseline"][key] for key in ("val_accuracy", "test_accuracy", "latency_ms")},
        "best": front["best"],
        "points": [figures(point, front) for point in front["points"]],
        "nearest": [figures(point, front) | {"misses": [miss["said"] for miss in point["misses"]]} for point in front["nearest"]],
    }


def figures(point: Row, front: Row) -> Row:
    """Return the figures that decide whether a point is within its bounds; a speed-up is that of the interval's upper end."""
    base = front["baseline"]
    return {
        "trial": point["trial"],
        "rung": point["rung"],
        "within": point["within"],
        "val_drop": round(base["val_accuracy"] - point["val_accuracy"], 3),
        "test_drop": round(base["test_accuracy"] - point["test_accuracy"], 3),
        "speedup": round(1.0 / point["latency_vs_baseline"], 3),
        "speedup_of_upper_end": round(front["baseline"]["latency_ms"] / point["latency_ci_ms"][1], 3),
        "occasions": point["latency_occasions"],
    }


def steps(rows: list[Row], only: str | None) -> list[tuple[str, float | None]]:
    """Return the searches that are not written down yet: a network and a share of its hour's speed, None for the hour itself."""
    done = {(row["network"], row["share"]) for row in rows}
    names = [name for name in NETWORKS if only in (None, name)]
    return [(name, share) for name in names for share in (None, *SHARES) if (name, share) not in done]


def fastest(rows: list[Row], name: str) -> float | None:
    """Return the speed-up of the fastest point that the hour's search of a network ended with, None if it has none."""
    hour = next(row for row in rows if row["network"] == name and row["share"] is None)
    return max((point["speedup"] for point in hour.get("points", ())), default=None)


def headlines(rows: list[Row]) -> list[Headline]:
    """Return how many searches of each share ended with a point within every bound, and whether the others showed the nearest."""
    lines = []
    for share, bar in zip(SHARES, (3, 3, 2), strict=True):
        of = [row for row in rows if row["share"] == share]
        within = sum(bool(row.get("points")) for row in of)
        met = within >= bar if len(of) == len(NETWORKS) else None
        lines.append(Headline(f"searches within every bound at {share:.0%} of the hour's speed", within, f"of {len(of)} run", bar, met))
    short = [row for row in rows if row["share"] is not None and not row.get("points")]
    shown = sum(bool(row.get("nearest")) for row in short)
    lines.append(
        Headline("searches without such a point that show the nearest", shown, f"of {len(short)}", len(short), shown == len(short))
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(NETWORKS))
    parser.add_argument("--hour", type=float, default=60.0, help="minutes of the first search")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=len(NETWORKS) * (1 + len(SHARES)))
    parser.add_argument("--keep", type=Path, help="folder in which the runs are kept")
    args = parser.parse_args()
    rows = recorded_rows(NAME)
    for name, share in steps(rows, args.only)[: args.steps]:
        fast = None if share is None else fastest(rows, name)
        if share is not None and fast is None:
            continue  # the hour found nothing, so nothing is known to be reachable
        speedup = HOUR_SPEEDUP if share is None or fast is None else max(share * fast, 1.0)
        print(f"{name}: {'the hour' if share is None else f'{share:.0%} of {fast:.2f}x'}", flush=True)
        minutes, keep = args.hour if share is None else args.minutes, args.keep and args.keep / f"{name}-{share or 'hour'}"
        rows.append({"network": name, "share": share} | searched(NETWORKS[name], speedup, minutes, keep))
        write_result(NAME, headlines(rows), rows, max_drop=MAX_DROP)


if __name__ == "__main__":
    main()
