"""`paretopress verify`: a bundle's hashes, parity and self-check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretopress.commands.terminal import out, verb_app
from paretopress.deploy.verify import verify_bundle

app = verb_app()


@app.command(epilog="Example: paretopress verify bundle")
def verify(bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", metavar="BUNDLE")]) -> None:
    """Check a bundle's hashes, its parity and its self-check."""
    checked = verify_bundle(bundle)
    out.print(
        f"verified {bundle}: sha256 {checked.sha256[:16]}, {checked.samples} samples, largest difference {checked.max_difference:.2g}"
    )
    for warning in checked.warnings:
        out.print(f"warning: {warning}", markup=False)
