"""`paretopress resume`: go on with a run that ended early, or give a run more time."""

from __future__ import annotations

from typing import Annotated

import typer

import paretopress
from paretopress.commands.show_run import show_run
from paretopress.commands.terminal import RunArgument, TrustOption, verb_app
from paretopress.config import seconds_of

app = verb_app()


@app.command(epilog="Example: paretopress resume runs/night --hours 2")
def resume(
    run: RunArgument,
    minutes: Annotated[float | None, typer.Option(help="Go on for so long, whatever the run's limits were.")] = None,
    hours: Annotated[float | None, typer.Option(help="The same in hours.")] = None,
    trust: TrustOption = False,
) -> None:
    """Go on with a run that ended early, or give a run more time."""
    more_s = seconds_of(minutes, hours)
    show_run(run, lambda view: paretopress.api.resume_run(run, view, trust=trust, more_s=more_s))
