"""`paretopress explain`: the file of a trial, or any ONNX file, explained on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer

from paretopress.commands.terminal import JsonOption, ThreadsOption, out, print_json, verb_app
from paretopress.core.arrays import Feed
from paretopress.core.resampling import fitted
from paretopress.errors import ConfigError, ModelError, RunFolderError
from paretopress.evaluators.explain import Explanation, explain
from paretopress.evaluators.optimised_graph import Conditions, read_facts
from paretopress.evaluators.rates import measure_rates
from paretopress.evaluators.source_graph import table_rows
from paretopress.report.explanation import explanation_view
from paretopress.run.lookup import find_trial, stored_config
from paretopress.runtimes.onnx_runtime import random_feed
from paretopress.runtimes.runtime import SessionSettings
from paretopress.system.run_folder import MODEL_FILE, RunFolder, open_run_folder
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget

app = verb_app()


def explain_path(path: Path, *, trial: int | None, baseline: Path | None, threads: int | None, runs: int) -> Explanation:
    """Return the explanation of a file, or of a run's trial against the run's baseline.

    Args:
        path: an ONNX file, or the folder of a run; `trial` goes with the latter alone.
        baseline: the file to compare with; None is the run's own, or no comparison.
        threads: of the session; None is what the run was measured with, or 1.
    Raises: InputError: no such file, run or trial, the file is no ONNX file, or the trial kept none. LatencyError: it does not run.
    """
    if not path.is_dir():
        if trial is not None:
            raise ConfigError(f"a trial belongs to a run, but got trial={trial} at the file {path}", "Give the folder of the run.")
        return explain_file(path, baseline, SessionSettings(threads or 1), runs)
    folder = open_run_folder(path)
    if trial is None:
        raise ConfigError(f"a run is explained by trial, but got none at {path}", "Give --trial; `paretopress front RUN` lists them.")
    config = stored_config(folder)
    settings = SessionSettings(threads or config.target.threads)
    return explain_file(trial_file(folder, trial), baseline or folder.baseline, settings, runs, _sample(folder))


def _sample(folder: RunFolder) -> Feed | None:
    """Return the first of the items that a run keeps, None where it keeps none."""
    if not folder.samples.is_file():
        return None
    with np.load(folder.samples, allow_pickle=False) as kept:
        return {name: array[:1] for name, array in kept.items()}


def explain_file(path: Path, baseline: Path | None, settings: SessionSettings, runs: int, item: Feed | None = None) -> Explanation:
    """Return the explanation of a file, with one item of its inputs, or as many as it takes at a time; random ones where none is given.

    A file of another resolution than the item's, or than the baseline's, takes the same images scaled.
    """
    for file in filter(None, (path, baseline)):
        check_onnx(file)
    rng = np.random.default_rng(0)
    feed = _feed(path, rng, item)
    conditions = Conditions(settings, measure_rates(settings), detect(environment()).channel_step)
    facts = read_facts(path, feed, conditions, runs=runs)
    if baseline is None:
        return explain(path.name, facts)
    its_feed = _feed(baseline, rng, feed if item is None else item)
    before = read_facts(baseline, its_feed, conditions, runs=runs)
    latency = LocalTarget(settings).measure(path, baseline, baseline_ms=before.whole_ms, limit_ms=None, feed=its_feed, rng=rng)
    return explain(path.name, facts, baseline=before, measured=latency)


def _feed(path: Path, rng: np.random.Generator, item: Feed | None) -> Feed:
    drawn = random_feed(path, rng, table_rows(onnx.load(path, load_external_data=False).graph))
    if item is None or item.keys() != drawn.keys():
        return drawn
    return {name: fitted(np.repeat(item[name][:1], len(array), axis=0), array.shape) for name, array in drawn.items()}


def check_onnx(path: Path) -> None:
    """Raise ModelError if a file is missing, or no ONNX file."""
    try:
        nodes = len(onnx.load(path, load_external_data=False).graph.node)
    except OSError as error:
        raise ModelError(f"the file must be readable, but got {error.strerror} at {path}") from error
    except Exception as error:  # whatever protobuf meets; its errors are no part of the interface of onnx
        raise ModelError(f"the file must be an ONNX model, but it does not decode: {path}", "Export it with torch.onnx.export.") from error
    if not nodes:
        raise ModelError(f"an ONNX model must hold nodes, but got none at {path}")


def trial_file(folder: RunFolder, number: int) -> Path:
    """Return the ONNX file of a trial: of its full recovery if it had one.

    Raises: RunFolderError: there is no such trial, or it was rejected, failed or is still running, so that no file was kept.
    """
    path = _kept(folder, number)
    if path is not None:
        return path
    trial = find_trial(folder, number)
    path = _kept(folder, trial.number)
    if path is not None:
        return path
    attributes = trial.user_attrs
    reason = attributes.get("outcome", {}).get("rejected") or attributes.get("error") or f"it is {trial.state.name.lower()}"
    raise RunFolderError(
        f"a trial must have kept its file, but trial {number} has none: {reason}",
        "Only trials that were trained keep theirs; `paretopress front RUN` lists the best.",
    )


def _kept(folder: RunFolder, number: int) -> Path | None:
    paths = (folder.candidate(number, final=final) / MODEL_FILE for final in (True, False))
    return next((path for path in paths if path.is_file()), None)


@app.command(epilog="Example: paretopress explain runs/night --trial 17, or: paretopress explain int8.onnx --baseline float.onnx")
def explain_command(
    path: Annotated[Path, typer.Argument(help="Folder of a run, or an ONNX file.", metavar="RUN|FILE.onnx")],
    trial: Annotated[int | None, typer.Option(help="Trial of the run.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="ONNX file to compare with (default: that of the run).")] = None,
    threads: ThreadsOption = None,
    runs: Annotated[int, typer.Option(help="Timed runs.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Say why a trial or an ONNX file is not faster: the causes, the milliseconds each costs, and what to change."""
    value = explain_path(path, trial=trial, baseline=baseline, threads=threads, runs=runs).to_json()
    if as_json:
        print_json(value)
    else:
        out.print(explanation_view(value))
