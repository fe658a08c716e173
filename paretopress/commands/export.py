"""`paretopress export`: a point of the front as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import paretopress
from paretopress.commands.show_run import export_bundle
from paretopress.commands.terminal import RunArgument, verb_app
from paretopress.errors import ConfigError

app = verb_app()


@app.command(epilog="Example: paretopress export runs/night --to bundle --latency-ms 2.5")
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    latency_ms: Annotated[float | None, typer.Option(help="The most accurate point within this bound.")] = None,
    trial: Annotated[int | None, typer.Option(help="The point of this trial.")] = None,
) -> None:
    """Export a point of the front as a bundle that needs onnxruntime and numpy alone."""
    if latency_ms is not None and trial is not None:
        raise ConfigError(f"--latency-ms or --trial may be given, not both, but got {latency_ms} and {trial}")
    export_bundle(paretopress.open_result(run), to, trial, latency_ms)
