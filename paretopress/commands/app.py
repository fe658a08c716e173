"""The command line: verbs that are loaded by name, and errors as one screen and an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from paretopress import __version__
from paretopress.commands.terminal import err, out, quiet_optuna
from paretopress.errors import ParetopressError
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.secret_masking import masked

# verb -> the first line of its help; its module has its name, and is loaded when the verb is typed
VERBS = {
    "demo": "Train a small network on scikit-learn's digits, search for one twice as fast, export and verify it.",
    "search": "Search for compressed versions of a model within a latency budget.",
    "resume": "Go on with a run that ended early, or give a run more time.",
    "status": "Show where a run stands; reads only, so it never disturbs the run.",
    "front": "Show the front of a finished run.",
    "plan": "Print the plan that a run's tables and trials predict to lose least within a budget; measures nothing.",
    "export": "Export a point of the front as a bundle that needs onnxruntime and numpy alone.",
    "verify": "Check a bundle's hashes, its parity and its self-check.",
    "explain": "Say why a trial or an ONNX file is not faster: the causes, the milliseconds each costs, and what to change.",
    "profile": "Show what each layer of a model costs on this host, and what int8, half the channels or its removal would save there.",
    "probe": "Find out what a target runs fast; takes about a minute once, and is kept for later searches.",
    "rerun": "Evaluate one trial of a run again, alone, and compare the figures with the recorded ones; the run is not changed.",
    "worker": "Join a shared run from any host, and leave when it ends, or on SIGTERM.",
    "proxy": "Let hundreds of workers share one process's connections to a database; needs the extra grpc.",
    "cache": "Show what earlier runs left for later ones (findings, trained students, latencies), and remove what is too much.",
}
# Optuna warns of both at every trial of a shared study, whose heartbeat is kept in search/storage/heartbeat.py
KNOWN_WARNINGS = (
    "Heartbeat of storage is supposed to be used with Study.optimize",
    "optuna.storages._heartbeat.fail_stale_trials is experimental",
)


class Verbs(TyperGroup):
    """A group whose verbs are listed without being loaded: most of them need torch, which takes seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands.update({name: TyperCommand(name, help=summary) for name, summary in VERBS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the verb that was typed, loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None or command is None else loaded(name), rest


def loaded(verb: str) -> TyperCommand:
    """Return the command of a verb, from the module of its name."""
    command = typer.main.get_command(import_module(f"paretopress.commands.{verb}").app)
    quiet_optuna()
    command.name = verb
    assert isinstance(command, TyperCommand)
    return command


app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"paretopress {__version__}", highlight=False)
        raise typer.Exit


@app.callback(epilog="Start with: paretopress demo")
def paretopress(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Press a model onto the Pareto front: prune, factorise, quantise and distil it within a measured latency budget."""


def main() -> None:
    """Run the command line; leaves with 0, 1 (failed) or 2 (bad input), and never shows a traceback for an expected error."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what goes wrong on a connection is raised, and said once
    keep_freed_memory()
    for known in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", known)
    try:
        app()
    except ParetopressError as error:
        err.print(f"error: {masked(error.message)}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            err.print(masked(error.hint), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full or read-only disk under the journal, which Optuna writes
        err.print(
            f"error: files must be readable and writable, but got {masked(str(error))}", style="bold red", markup=False, highlight=False
        )
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted; `paretopress resume RUN` goes on from here", style="bold")
        sys.exit(1)
    except Exception:  # a fault of this program: its traceback helps, but drivers quote the URL that they were given
        sys.stderr.write(masked(traceback.format_exc()))
        sys.exit(1)
