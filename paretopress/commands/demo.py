"""`paretopress demo`: a network trained on the spot on data that needs no download, then the main job on it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import torch
import typer

from paretopress.api import compress
from paretopress.commands.demo_model import train_demo_model
from paretopress.commands.show_run import export_bundle, new_run, show_run
from paretopress.commands.terminal import verb_app
from paretopress.core.outcome import Budget
from paretopress.errors import RunFolderError
from paretopress.intake.datasets.data_spec import load_data
from paretopress.report.live import Reporter
from paretopress.run.result import Result
from paretopress.system.thread_pace import threads_as_before, threads_beside
from paretopress.targets.machine_state import LoadOfOthers
from paretopress.targets.probe.probing import LOCAL, cached_probe, opener

app = verb_app()

DEMO_DATA = "digits?size=16"
DEMO_SPEEDUP = 2.0
DEMO_MAX_DROP = 2.0


def run_demo(run: Path, reporter: Reporter, *, minutes: float = 4.0, seed: int = 0) -> Result:
    """Train the demo's network and search for versions that take half its latency; return the run's result."""
    if run.exists():
        raise RunFolderError(f"a new run needs a new folder, but {run} exists", "Name another with --run.")
    load = LoadOfOthers()
    data = load_data(DEMO_DATA, seed=seed)
    reporter.message("training a small residual network on scikit-learn's digits (under a minute)")
    with threads_as_before():
        torch.set_num_threads(threads_beside(load() or 0.0, torch.get_num_threads()))
        model = train_demo_model(data, seed=seed)
    with closing(opener(LOCAL)(1)) as target:
        probed = cached_probe(target) is not None  # its minutes are few: it takes a probe that is there, but makes none
    return compress(
        model,
        data,
        budget=Budget(speedup=DEMO_SPEEDUP, max_drop=DEMO_MAX_DROP),
        run=run,
        minutes=minutes,
        seed=seed,
        config={"target": {"probe": probed}},
        reporter=reporter,
    )


@app.command(epilog="Example: paretopress demo --minutes 2 --run runs/demo")
def demo(
    minutes: Annotated[float, typer.Option(help="Time for the search.")] = 4.0,
    run: Annotated[Path | None, typer.Option(help="New folder for the run.")] = None,
    to: Annotated[Path | None, typer.Option(help="New folder for the bundle.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Train a small network on scikit-learn's digits, search for one twice as fast, export and verify it."""
    folder = run or new_run("demo")
    result = show_run(folder, lambda view: run_demo(folder, view, minutes=minutes, seed=seed))
    export_bundle(result, to or folder / "bundle", None, None)
