"""Searches of 4 and 2 minutes beside 0, 1 and 2 busy processes: the time that is kept, the pace, and what can be exported in the end.

    python benchmarks/busy.py [--minutes 4 2] [--busy 0 1 2] [--again]

The demo's network on scikit-learn's digits, searched by the command line as a user does, without anything from earlier searches. A busy
process is a Python loop that never sleeps. About 25 minutes on two cores, with nothing else running. Each row is written as its search
ends, and a search that has a row is not repeated unless --again is given.

Overshoot is (seconds from the start of the command to its end - seconds given) / seconds given: the imports of the command (4 s on an
idle machine), its set-up, the scoring of the front on test data and the tables that it prints are all in it. The export is a command of
its own and is not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from results_file import Headline, recorded_rows, write_result
from safetensors.torch import save_file

from paretopress.commands.demo import DEMO_DATA, DEMO_MAX_DROP, DEMO_SPEEDUP
from paretopress.commands.demo_model import train_demo_model
from paretopress.intake.datasets.data_spec import load_data
from paretopress.system.event_log import read_events

NAME = "busy"
OVERSHOOT_BAR = 3.0
# trials per minute beside so many busy processes, as a share of those of the idle machine
PACE_BARS = {1: 0.4, 2: 0.25}
# a command that takes so many times its time hangs
HANGS = 4.0
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))"
FACTORY = """from safetensors.torch import load_file
from paretopress.commands.demo_model import DemoNet

def model():
    net = DemoNet()
    net.load_state_dict(load_file({weights!r}))
    return net.eval()
"""
Row = dict[str, Any]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy inside the block; they end with it, and with this process, however it ends."""
    spinning: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            spinning.append(subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())]))
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def trained_model(folder: Path) -> str:
    """Train the demo's network, and return the spec that the command line loads it by."""
    weights = folder / "demo.safetensors"
    save_file(train_demo_model(load_data(DEMO_DATA, seed=0), seed=0).state_dict(), weights)
    factory = folder / "demo_network.py"
    factory.write_text(FACTORY.format(weights=str(weights)))
    return f"{factory}:model"


def command(folder: Path, *words: str, limit_s: float) -> tuple[int, float, str]:
    """Return the exit code of a command, the seconds from its start to its end, and what it printed."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "paretopress", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=limit_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # it, and what it started
        process.wait()
        raise
    return process.returncode, time.monotonic() - started, printed


def trials_per_minute(run: Path) -> float | None:
    """Return how many trials ended a minute, from the beginning of the first to the end of the last."""
    events = read_events(run / "log.jsonl")
    began = [datetime.fromisoformat(event["time"]) for event in events if event["event"] == "started"]
    ended = [datetime.fromisoformat(event["time"]) for event in events if event["event"] == "trial"]
    return 60.0 * len(ended) / (ended[-1] - began[0]).total_seconds() if ended and began else None


def exported(folder: Path, run: Path, limit_s: float) -> tuple[Row | None, bool]:
    """Export the run's best point; return what its manifest says, and whether that is within every bound."""
    bundle = folder / "bundle"
    code, _, printed = command(folder, "export", str(run), "--to", str(bundle), limit_s=limit_s)
    if code:
        print(printed)
        return None, False
    manifest = json.loads((bundle / "manifest.json").read_text())
    found, conditions = manifest["measurements"], manifest["conditions"]
    drop = conditions["baseline"]["val_accuracy"] - found["val_accuracy"]
    budget = conditions["budget"]
    within = found["latency_ci_ms"][1] <= budget["limit_ms"] and drop <= budget["max_drop"]
    return found | {"limit_ms": budget["limit_ms"], "val_drop": drop, "max_drop": budget["max_drop"]}, bool(within)


def searched(model: str, minutes: float, busy: int) -> Row:
    """Return the row of one search."""
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        folder = Path(temporary)
        run = folder / "run"
        words = ["search", "--model", model, "--data", DEMO_DATA, "--speedup", str(DEMO_SPEEDUP), "--max-drop", str(DEMO_MAX_DROP)]
        words += ["--minutes", str(minutes), "--run", str(run), "--no-probe"]
        limit_s = HANGS * 60.0 * minutes
        with busy_processes(busy):
            code, wall_s, printed = command(folder, *words, limit_s=limit_s)
        front = json.loads((run / "front.json").read_text()) if (run / "front.json").is_file() else {}
        point, within = exported(folder, run, limit_s) if code == 0 else (None, False)
        return {
            "minutes": minutes,
            "busy": busy,
            "exit_code": code,
            "wall_s": round(wall_s, 1),
            "overshoot_percent": round(100.0 * (wall_s / (60.0 * minutes) - 1.0), 2),
            "trials_per_minute": None if (pace := trials_per_minute(run)) is None else round(pace, 2),
            "trials": front.get("trials"),
            "points": len(front.get("points", ())),
            "seconds": front.get("seconds"),
            "setup_cut": front.get("setup_cut"),
            "stopped_early": front.get("stopped_early") is not None,
            "threads": [event["reason"] for event in read_events(run / "log.jsonl") if event["event"] == "threads"],
            "exported": point,
            "within_bounds": within,
            "printed": [line for line in printed.splitlines() if "/" not in line][:60],
        }


def pace(rows: list[Row], minutes: float, busy: int) -> float | None:
    """Return the trials per minute beside busy processes over those of the idle machine, None where one of them is not known."""
    by = {row["busy"]: row["trials_per_minute"] for row in rows if row["minutes"] == minutes}
    return round(by[busy] / by[0], 3) if by.get(busy) and by.get(0) else None


def headlines(rows: list[Row]) -> list[Headline]:
    """Return the figures of the searches that are done."""
    most = max((row["overshoot_percent"] for row in rows), default=None)
    idle = {row["minutes"] for row in rows if row["busy"] == 0 and row["within_bounds"]}
    due = [row for row in rows if row["minutes"] in idle]
    kept = sum(row["within_bounds"] for row in due)
    lines = [
        Headline("largest overshoot of a search", most, "% of the time given", OVERSHOOT_BAR, most is not None and most <= OVERSHOOT_BAR),
        Headline("searches that export a point within every bound", kept, f"of {len(due)}", len(due), kept == len(due)),
    ]
    for minutes in sorted({row["minutes"] for row in rows}, reverse=True):
        for busy, bar in PACE_BARS.items():
            value = pace(rows, minutes, busy)
            name = f"trials per minute of {minutes:g} minutes beside {busy} busy process{'es' if busy > 1 else ''}"
            if value is not None:
                lines.append(Headline(name, value, "of the idle machine's", bar, value >= bar))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[4.0, 2.0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = [] if options.again else recorded_rows(NAME)
    done = {(row["minutes"], row["busy"]) for row in rows}
    wanted = [(minutes, busy) for minutes in options.minutes for busy in options.busy if (minutes, busy) not in done]
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        if wanted:
            print("training the demo's network", flush=True)
            model = trained_model(Path(temporary))
        for minutes, busy in wanted:
            print(f"{minutes:g} minutes beside {busy} busy processes", flush=True)
            row = searched(model, minutes, busy)
            shown = {name: row[name] for name in ("exit_code", "overshoot_percent", "trials_per_minute", "points", "within_bounds")}
            print(f"  {shown}", flush=True)
            rows.append(row)
            write_result(NAME, headlines(rows), rows, threads=torch.get_num_threads())
    if not wanted:
        write_result(NAME, headlines(rows), rows, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
