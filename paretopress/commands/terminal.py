"""What every verb shares: the two streams of the terminal, options by their types, and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out, err = Console(), Console(stderr=True)

RunArgument = Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN")]
ModelOption = Annotated[str | None, typer.Option(help="file.py:factory, or torchvision:resnet18?weights=FILE&num_classes=10.")]
DataOption = Annotated[str | None, typer.Option(help="file.py:factory, digits, fashion-mnist, folder:PATH, torchvision:CIFAR10?root=PATH.")]
TrustOption = Annotated[bool, typer.Option("--trust", help="Allow reading pickles (.pt, .pth), which can run any code.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads of the session that is timed (default 1).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def verb_app() -> typer.Typer:
    """Return the application of one verb."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def print_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2))


def quiet_optuna() -> None:
    """Have Optuna tell of warnings alone, if it is loaded: its other lines would tear the live view."""
    if (optuna := sys.modules.get("optuna")) is not None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
