"""`paretopress worker`: a process of any host that joins a shared run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretopress.commands.terminal import DataOption, ModelOption, out, verb_app
from paretopress.distributed.worker import WorkerFlags, run_worker
from paretopress.report.live import LiveView

app = verb_app()


@app.command(epilog="Example: paretopress worker 'postgresql+psycopg://press@db/runs#night' --model net.py:load --data net.py:photos")
def worker(
    url: Annotated[str, typer.Argument(help="What `search --storage` printed.", metavar="RUN-URL")],
    model: ModelOption = None,
    data: DataOption = None,
    metric: Annotated[str | None, typer.Option(help="As for search; needed where the study's is FILE.py:FUNCTION.")] = None,
    decoder: Annotated[str | None, typer.Option(help="As for search; needed where the study's is FILE.py:FUNCTION.")] = None,
    target: Annotated[str | None, typer.Option(help="As for search; needed where the study's is not local.")] = None,
    artifacts: Annotated[str | None, typer.Option(help="Where this host reaches the run's artifacts.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Accept what the study names for options not given here, and pickles.")] = False,
) -> None:
    """Join a shared run from any host, and leave when it ends, or on SIGTERM.

    A study is data: what it names is loaded where an option here names it too, or with --trust.
    """
    flags = WorkerFlags(model, data, metric, target, artifacts, decoder, base=str(Path.cwd()), trust=trust)
    with LiveView(out) as view:
        run_worker(url, view, flags)
