"""`paretopress front`: the front of a finished run as a table or as JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from paretopress.commands.terminal import RunArgument, out, print_json, verb_app
from paretopress.report.tables import front_table
from paretopress.system.run_folder import open_run_folder

app = verb_app()


@app.command(epilog="Example: paretopress front runs/night --json")
def front(run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="Print front.json.")] = False) -> None:
    """Show the front of a finished run."""
    folder = open_run_folder(run)
    value = folder.read(folder.front)
    if as_json:
        print_json(value)
    else:
        out.print(front_table(value))
