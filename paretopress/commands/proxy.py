"""`paretopress proxy`: one process before a database of shared runs."""

from __future__ import annotations

from typing import Annotated

import typer

from paretopress.commands.terminal import out, verb_app
from paretopress.search.storage.places import serve_proxy

app = verb_app()


@app.command(epilog="Example: paretopress proxy postgresql+psycopg://press@db/runs --host 0.0.0.0")
def proxy(
    storage: Annotated[str, typer.Argument(help="Database of shared runs, e.g. postgresql+psycopg://...", metavar="URL")],
    host: Annotated[str, typer.Option(help="Address to listen at; whoever reaches it can read and write the runs.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 13_000,
) -> None:
    """Let hundreds of workers share one process's connections to a database; needs the extra grpc."""
    said = "--storage {} takes the place of the database's URL for as long as this runs"
    serve_proxy(storage, host, port, lambda url: out.print(said.format(url), soft_wrap=True))
