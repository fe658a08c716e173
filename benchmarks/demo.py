"""`make demo` from a fresh clone, timed, and its bundle checked where there is nothing but onnxruntime and numpy.

    python benchmarks/demo.py [--clone DIR] [--busy N]

Clones this repository's HEAD into a temporary folder, or into DIR. A DIR that is a clone with its environment already made is used as it
is, and then no time of installing is reported. With --busy so many processes that never sleep run beside `make demo`, and the result is
results/demo_busy.json. About 10 minutes on two cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clone", type=Path)
    parser.add_argument("--busy", type=int, default=0, help="processes that never sleep beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        clone = args.clone or Path(temporary, "clone")
        made = (clone / ".venv" / ".installed").is_file()
        if not made:
            run("git", "clone", "-q", ROOT, clone, where=ROOT)
        commit = run("git", "rev-parse", "HEAD", where=clone).strip()
        started = time.monotonic()
        run("make", "setup", where=clone)
        installed = time.monotonic()
        with busy_processes(args.busy):
            printed = run("make", "demo", where=clone)
            finished = time.monotonic()
        folder = max(path for path in (clone / "runs").iterdir() if path.is_dir() and path.name.endswith("-demo"))
        front = json.loads((folder / "front.json").read_text())
        venv = Path(temporary, "bare")
        run(sys.executable, "-m", "venv", venv, where=clone)
        run(venv / "bin/python", "-m", "pip", "install", "-q", "onnxruntime", "numpy", where=clone)
        checked = run(venv / "bin/python", "run.py", "--check", where=folder / "bundle")
    passed = "self-check passed" in checked
    best = next(point for point in front["points"] if point["trial"] == front["best"])
    write_result(
        "demo_busy" if args.busy else "demo",
        [
            *([Headline("busy processes beside it", args.busy, "processes")] if args.busy else []),
            *([] if made else [Headline("install", round((installed - started) / 60, 1), "minutes")]),
            Headline("make demo after the install", round((finished - installed) / 60, 1), "minutes"),
            Headline("points on the front", len(front["points"]), "models"),
            Headline("best point against fp32", round(1 / best["latency_vs_baseline"], 2), "x", 2.0, best["latency_vs_baseline"] <= 0.5),
            Headline("its drop on test data", round(front["baseline"]["test_accuracy"] - best["test_accuracy"], 2), "points"),
            Headline("bundle passes its check with onnxruntime and numpy alone", int(passed), "(1 = yes)", 1, passed),
        ],
        front["points"],
        commit=commit,
        trials=front["trials"],
        baseline=front["baseline"],
        printed=[line for line in printed.splitlines()[-45:] if "/" not in line],
        bundle_check=checked.strip(),
    )


if __name__ == "__main__":
    main()
