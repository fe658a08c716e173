"""How quick the commands are that need no torch, against Python with the two packages that print.

    python benchmarks/startup.py [--run FOLDER] [--rounds 9]

Each round types every command once, in turns with `python -c "import typer, rich"`; a command's figure is the median over the rounds of
its ratio to that, and its worst round stands beside it. They read a finished run with a bundle in it; without `--run` the demo makes one
first, which takes three minutes. Nothing else may run meanwhile. Writes results/startup.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from results_file import Headline, write_result

NAME, BAR = "startup", 3.0
REFERENCE = [sys.executable, "-c", "import typer, rich"]
TORCH = [sys.executable, "-c", "import torch"]


def commands(run: Path) -> dict[str, list[str]]:
    """Return what is typed, by its name."""
    typed = {
        "--help": ["--help"],
        "--version": ["--version"],
        "status": ["status", str(run)],
        "front": ["front", str(run)],
        "verify": ["verify", str(run / "bundle")],
        "cache": ["cache"],
        "search --help": ["search", "--help"],
    }
    return {name: [sys.executable, "-m", "paretopress", *arguments] for name, arguments in typed.items()}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a finished run that holds a bundle")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        run = args.run or Path(folder, "run")
        if args.run is None:
            subprocess.run([sys.executable, "-m", "paretopress", "demo", "--minutes", "2", "--run", str(run)], check=True, timeout=900)
        typed = commands(run)
        for command in typed.values():  # files are read from the disk once
            seconds(command)
        rounds = [{name: seconds(command) for name, command in {"": REFERENCE, **typed}.items()} for _ in range(args.rounds)]
        torch_s = seconds(TORCH)
    rows, headlines = [], []
    for name in typed:
        taken, ratios = [each[name] for each in rounds], [each[name] / each[""] for each in rounds]
        rows.append({"command": name, "seconds": median(taken), "ratio": median(ratios), "worst_ratio": max(ratios)})
        bar = None if name == "search --help" else BAR
        met = None if bar is None else median(ratios) <= bar
        headlines.append(Headline(f"{name} against importing typer and rich", round(median(ratios), 2), "x", bar, met))
    reference_s = median(each[""] for each in rounds)
    write_result(NAME, headlines, rows, reference_s=reference_s, import_torch_s=torch_s, rounds=args.rounds)


if __name__ == "__main__":
    main()
