"""`paretopress probe`: what a target runs fast."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from paretopress.commands.terminal import err, out, print_json, verb_app
from paretopress.report.live import LiveView
from paretopress.report.probe_table import probe_table
from paretopress.targets.probe.probing import LOCAL, opener, probe_target

app = verb_app()


@app.command(epilog="Example: paretopress probe --target ssh://pi@camera --threads 4")
def probe(
    target: Annotated[str, typer.Option(help="local, or ssh://user@host[:port].")] = LOCAL,
    threads: Annotated[int, typer.Option(help="Threads of the sessions.")] = 1,
    refresh: Annotated[bool, typer.Option("--refresh", help="Probe again, whatever is known from earlier.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report.")] = False,
) -> None:
    """Find out what a target runs fast; takes about a minute once, and is kept for later searches."""
    open_target = opener(target)
    with LiveView(err) as view, closing(open_target(threads)) as opened:
        report = probe_target(opened, open_target, view.message, refresh=refresh).to_json()
    if as_json:
        print_json(report)
    else:
        out.print(probe_table(report))
