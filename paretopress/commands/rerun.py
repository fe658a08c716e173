"""`paretopress rerun`: evaluates one trial of a run again, alone, and puts the figures beside the recorded ones."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from paretopress.commands.terminal import JsonOption, RunArgument, TrustOption, out, print_json, verb_app
from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.core.untrusted_values import parse_outcome, parse_plan
from paretopress.errors import RunFolderError
from paretopress.run.factory import load_and_trace, make_evaluator, make_pipeline, open_run_target, worker_threads
from paretopress.run.lookup import confirmed_config, find_trial
from paretopress.run.state import RunState
from paretopress.search.storage import records as keys
from paretopress.system.run_folder import RunFolder, open_run_folder
from paretopress.targets.capabilities import capabilities_in
from paretopress.trial.evaluator import PlanEvaluator

app = verb_app()


def rerun_trial(run: Path, number: int, *, trust: bool = False) -> dict[str, Any]:
    """Return {"trial", "rung", "figures": {name: {"recorded", "again"}}, "same_bytes"} for a trial that was evaluated.

    It is done as the search did it: same seed, steps, batches and rungs; the run is not changed. The figures of accuracy, multiply-adds and
    size are the same where the training is (same machine, threads and versions); latencies differ by the state of the machine.
    Raises: RunFolderError: there is no such trial, it failed, or model, data, metric, settings, target or versions are others
            than the run's. TrustError: the run was started with --trust, and `trust` is not given.
    """
    folder = open_run_folder(run)
    config, state = confirmed_config(folder, trust=trust), RunState.from_json(folder.read(folder.state))
    plan, recorded = _recorded(folder, number)
    threads = worker_threads(config, state)
    torch.set_num_threads(threads)  # as the search did: sums come out differently in their last bits
    intake, data = load_and_trace(config)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary, closing(open_run_target(config)) as target:
        apart = RunFolder(Path(temporary))
        shutil.copy(folder.baseline, apart.baseline)
        pipeline = make_pipeline(intake, data, target, apart, config, capabilities_in(state.environment), threads=threads, cached=False)
        state.demand_same(pipeline.whole_identity(), "a trial that is evaluated again")
        again = _climbed(make_evaluator(pipeline, config, state), plan, recorded.rung, number)
    shown = {
        "val_accuracy": (recorded.val_accuracy, again.val_accuracy),
        "macs": (recorded.macs, again.macs),
        "size_bytes": (recorded.size_bytes, again.size_bytes),
        "latency_ms": (recorded.latency.latency_ms, again.latency.latency_ms),
        "latency_ci_ms": (list(recorded.latency.latency_ci_ms), list(again.latency.latency_ci_ms)),
    }
    return {
        "trial": number,
        "rung": int(recorded.rung),
        "figures": {name: {"recorded": before, "again": now} for name, (before, now) in shown.items()},
        "same_bytes": recorded.onnx_sha256 == again.onnx_sha256,
    }


def _recorded(folder: RunFolder, number: int) -> tuple[Plan, Outcome]:
    trial = find_trial(folder, number)
    attributes = trial.user_attrs
    if keys.OUTCOME not in attributes:
        reason = attributes.get(keys.ERROR) or f"it is {trial.state.name.lower()}"
        raise RunFolderError(f"a trial must have been evaluated, but trial {number} was not: {reason}")
    source = f"trial {number} of the study"
    return parse_plan(attributes.get(keys.PLAN), source), parse_outcome(attributes[keys.OUTCOME], source)


def _climbed(evaluate: PlanEvaluator, plan: Plan, rung: Rung, number: int) -> Outcome:
    """Return the outcome at a rung, reached as a trial reaches it.

    The rung of the costs is climbed for its own figures alone: the next one starts from the original weights, too.
    """
    if rung is Rung.COSTS:
        return evaluate(plan, rung, number)
    return [evaluate(plan, step, number) for step in evaluate.effort.ladder() if Rung.COSTS < step <= rung][-1]


@app.command(epilog="Example: paretopress rerun runs/night --trial 17")
def rerun(
    run: RunArgument,
    trial: Annotated[int, typer.Option(help="Trial of the run.")],
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate one trial of a run again, alone, and compare the figures with the recorded ones; the run is not changed."""
    value = rerun_trial(run, trial, trust=trust)
    if as_json:
        print_json(value)
        return
    out.print(f"trial {value['trial']}, rung {value['rung']}, the same bytes: {'yes' if value['same_bytes'] else 'no'}")
    for name, figure in value["figures"].items():
        out.print(f"{name.replace('_', ' ')}: {figure['recorded']} recorded, {figure['again']} again", markup=False, highlight=False)
