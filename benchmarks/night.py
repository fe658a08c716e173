"""A night in small: a search of the CIFAR-10 (JPEG) ResNet-20 that is killed three times, and has to end on time with its front.

    python benchmarks/night.py [--hours 2] [--kills 3] [--run DIR]

`paretopress search runs/cifar10_resnet20.toml --hours 2 --no-stop-early` in a process of its own; three times, at a random instant of each
quarter of the time but the last, the process is killed with SIGKILL and `paretopress resume` is typed at once. While it runs,
`paretopress status --json` is asked once a minute: from when on there is a best file, and how far its remaining time is off. Nothing else
runs beside.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults import checked_end
from results_file import Headline, write_result

from paretopress.system.run_folder import RunFolder

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "cifar10_resnet20.toml"
ON_TIME_BAR, EARLY_BAR_S, ASKED_EVERY_S = 2.0, 600.0, 60.0
Row = dict[str, object]


def typed(*arguments: object) -> subprocess.Popen[bytes]:
    """Start what a user would type."""
    return subprocess.Popen([sys.executable, "-m", "paretopress", *map(str, arguments)], stdout=subprocess.DEVNULL)


def asked(run: Path) -> dict[str, object]:
    """Return what `paretopress status --json` says."""
    said = subprocess.run([sys.executable, "-m", "paretopress", "status", str(run), "--json"], capture_output=True, check=False)
    return json.loads(said.stdout) if said.returncode == 0 else {}


def watched(process: subprocess.Popen[bytes], run: Path, until: float, started: float, rows: list[Row]) -> None:
    """Wait for the end of a process or a moment of time.monotonic(), whichever comes first, and ask for the state once a minute."""
    while process.poll() is None and time.monotonic() < until:
        status = asked(run)
        row = {"at_s": round(time.monotonic() - started, 1)}
        rows.append(row | {key: status.get(key) for key in ("phase", "completed", "finalists", "remaining_s", "best_file")})
        print(rows[-1], flush=True)
        try:
            process.wait(max(min(ASKED_EVERY_S, until - time.monotonic()), 0.1))
        except subprocess.TimeoutExpired:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--run", type=Path, default=Path("runs/night"))
    options = parser.parse_args()
    rng, given_s, rows, killed = random.Random(0), options.hours * 3600.0, [], []
    quarter_s = given_s / (options.kills + 1)
    moments = [quarter_s * (number + rng.uniform(0.2, 1.0)) for number in range(options.kills)]
    started = time.monotonic()
    process = typed("search", CONFIG, "--hours", options.hours, "--no-stop-early", "--run", options.run)
    for moment in moments:
        watched(process, options.run, started + moment, started, rows)
        if process.poll() is not None:
            break
        before = asked(options.run)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append({"at_s": round(time.monotonic() - started, 1), "phase": before.get("phase"), "completed": before.get("completed")})
        process = typed("resume", options.run)
    watched(process, options.run, started + 2.0 * given_s, started, rows)
    took_s = time.monotonic() - started
    wrong = checked_end(RunFolder(options.run))
    write_result("night", headlines(rows, killed, took_s, given_s, wrong, process.returncode), rows, kills=killed, took_s=round(took_s, 1))


def headlines(rows: list[Row], killed: list[Row], took_s: float, given_s: float, wrong: list[str], code: int | None) -> list[Headline]:
    """Return the figures with their bars."""
    off = round(100.0 * (took_s / given_s - 1.0), 2)
    first = next((row["at_s"] for row in rows if row["best_file"]), None)
    return [
        Headline("kills", len(killed), ""),
        Headline("exit code of the last process", code, "", 0, code == 0),
        Headline("end of the run, restarts included, off the time given", off, "%", ON_TIME_BAR, abs(off) <= ON_TIME_BAR),
        Headline("a best file was there after", first, "s", EARLY_BAR_S, first is not None and float(str(first)) <= EARLY_BAR_S),
        Headline("what is wrong with the front or its files", len(wrong), "", 0, not wrong),
    ]


if __name__ == "__main__":
    main()
