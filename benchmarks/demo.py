"""`make demo` from a fresh clone, timed, and its bundle checked where there is nothing but onnxruntime and numpy.

    python benchmarks/demo.py [--clone DIR] [--busy N] [--runs 3]

Clones this repository's HEAD into a temporary folder, or into DIR. A DIR that is a clone with its environment already made is used as it
is, and then no time of installing is reported. `make demo` runs three times with one seed: what a search of minutes finds depends on the
latencies that it measured, so that a figure is the median, and the worst stands beside it. With --busy so many processes that never sleep
run beside `make demo`, and the result is results/demo_busy.json. A quarter of an hour on two cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from busy import busy_processes
from results_file import Headline, write_result

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, where: Path) -> str:
    """Return what a command printed; stop with it if the command failed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def one_demo(clone: Path, python: Path, busy: int) -> dict[str, Any]:
    """Run `make demo` once; return its minutes, its front's point to ship, and whether the bundle passes its check."""
    with busy_processes(busy):
        started = time.monotonic()
        printed = run("make", "demo", where=clone)
        minutes = (time.monotonic() - started) / 60
    folder = max(path for path in (clone / "runs").iterdir() if path.is_dir() and path.name.endswith("-demo"))
    front = json.loads((folder / "front.json").read_text())
    checked = run(python, "run.py", "--check", where=folder / "bundle").strip()
    best = next(point for point in front["points"] if point["trial"] == front["best"])
    return {
        "minutes": round(minutes, 1), "points": len(front["points"]), "speedup": round(1 / best["latency_vs_baseline"], 2),
        "test_drop": round(front["baseline"]["test_accuracy"] - best["test_accuracy"], 2), "passed": "self-check passed" in checked,
        "trials": front["trials"], "baseline": front["baseline"], "front": front["points"], "bundle_check": checked,
        "printed": [line for line in printed.splitlines()[-45:] if "/" not in line],
    }  # fmt: skip


def headlines(runs: list[dict[str, Any]], install_minutes: float | None, busy: int) -> list[Headline]:
    """Return the medians and the worst of some runs of `make demo`."""
    speedup, worst = median(made["speedup"] for made in runs), min(made["speedup"] for made in runs)
    passed = sum(made["passed"] for made in runs)
    return [
        *([Headline("busy processes beside it", busy, "processes")] if busy else []),
        *([] if install_minutes is None else [Headline("install", install_minutes, "minutes")]),
        Headline("`make demo` run so many times", len(runs), "runs"),
        Headline("make demo after the install, median", round(median(made["minutes"] for made in runs), 1), "minutes"),
        Headline("points on the front, median", median(made["points"] for made in runs), "models"),
        Headline("best point against fp32, median", speedup, "x", 2.0, speedup >= 2.0),
        Headline("the same, worst run", worst, "x"),
        Headline("its drop on test data, median", median(made["test_drop"] for made in runs), "points"),
        Headline("the same, worst run", max(made["test_drop"] for made in runs), "points"),
        Headline("bundles that pass their check with onnxruntime and numpy alone", passed, "runs", len(runs), passed == len(runs)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clone", type=Path)
    parser.add_argument("--busy", type=int, default=0, help="processes that never sleep beside it")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        clone = args.clone or Path(temporary, "clone")
        made = (clone / ".venv" / ".installed").is_file()
        if not made:
            run("git", "clone", "-q", ROOT, clone, where=ROOT)
        commit = run("git", "rev-parse", "HEAD", where=clone).strip()
        started = time.monotonic()
        run("make", "setup", where=clone)
        install_minutes = None if made else round((time.monotonic() - started) / 60, 1)
        venv = Path(temporary, "bare")
        run(sys.executable, "-m", "venv", venv, where=clone)
        run(venv / "bin/python", "-m", "pip", "install", "-q", "onnxruntime", "numpy", where=clone)
        runs: list[dict[str, Any]] = []
        for _ in range(args.runs):
            runs.append(one_demo(clone, venv / "bin/python", args.busy))
            name = "demo_busy" if args.busy else "demo"
            write_result(name, headlines(runs, install_minutes, args.busy), runs, commit=commit)


if __name__ == "__main__":
    main()
