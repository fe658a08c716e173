"""A run on the terminal: its live view, its front when it is over, and the bundle of a point."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import paretopress
from paretopress.commands.terminal import out, quiet_optuna
from paretopress.errors import SearchFailedError
from paretopress.report.live import LiveView
from paretopress.report.tables import front_table

if TYPE_CHECKING:
    from paretopress.run.result import Result


def new_run(name: str) -> Path:
    """Return a new folder for a run, named by the time and what it is of."""
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def show_run(run: Path, go: Callable[[LiveView], Result]) -> Result:
    """Show the front of a run when it is over, also where no point of it is within every bound; that is raised then."""
    try:
        with LiveView(out) as view:
            import_module("paretopress.api")  # takes seconds, and loads Optuna
            quiet_optuna()
            result = go(view)
    except SearchFailedError:
        if (run / "front.json").is_file():
            show_front(paretopress.open_result(run))
        raise
    show_front(result)
    return result


def show_front(result: Result) -> None:
    """Print the table of a front, and where its files are."""
    out.print(front_table(result.front))
    out.print(f"front: {result.run / 'front.json'}  picture: {result.run / 'front.png'}", markup=False, highlight=False)


def export_bundle(result: Result, to: Path, trial: int | None, latency_ms: float | None) -> None:
    """Write and verify the bundle of a point, and say how to run it."""
    started = time.monotonic()
    bundle = result.export(to, trial=trial, latency_ms=latency_ms)
    out.print(f"bundle: {bundle} (exported and verified in {time.monotonic() - started:.1f} s)", markup=False, highlight=False)
    for unsure in json.loads((bundle / "manifest.json").read_text())["conditions"]["unsure_bounds"]:
        out.print(f"not shown to be within the budget: {unsure}", markup=False, highlight=False)
    out.print(f"it runs with onnxruntime and numpy alone: python {bundle / 'run.py'} --check", markup=False, highlight=False)
