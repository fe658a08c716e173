"""`paretopress resume`: go on with a run that ended early."""

from __future__ import annotations

import paretopress
from paretopress.commands.show_run import show_run
from paretopress.commands.terminal import RunArgument, TrustOption, verb_app

app = verb_app()


@app.command(epilog="Example: paretopress resume runs/night")
def resume(run: RunArgument, trust: TrustOption = False) -> None:
    """Go on with a run that ended early."""
    show_run(run, lambda view: paretopress.api.resume_run(run, view, trust=trust))
