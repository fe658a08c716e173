"""`paretopress rerun`: evaluates one trial of a run again, alone, and puts the figures beside the recorded ones."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from paretopress.errors import RunFolderError
from paretopress.measurement import Outcome, Rung
from paretopress.plan import Plan
from paretopress.plan_evaluator import PlanEvaluator
from paretopress.run_folder import RunFolder, open_run_folder
from paretopress.run_parts import load_and_trace, make_evaluator, make_pipeline, open_run_target, worker_threads
from paretopress.run_study import find_trial, stored_config
from paretopress.search import records as keys
from paretopress.setup_run import RunState
from paretopress.targets.capabilities import capabilities_in


def rerun_trial(run: Path, number: int) -> dict[str, Any]:
    """Return {"trial", "rung", "figures": {name: {"recorded", "again"}}, "same_bytes"} for a trial that was evaluated.

    It is done as the search did it: same seed, steps, batches and rungs; the run is not changed. The figures of accuracy, multiply-adds and
    size are the same where the training is (same machine, threads and versions); latencies differ by the state of the machine.
    Raises: RunFolderError: there is no such trial, it failed, or the model is another than the run's.
    """
    folder = open_run_folder(run)
    config, state = stored_config(folder), RunState.from_json(folder.read(folder.state))
    plan, recorded = _recorded(folder, number)
    threads = worker_threads(config, state)
    torch.set_num_threads(threads)  # as the search did: sums come out differently in their last bits
    intake, data = load_and_trace(config)
    state.demand_model(intake.module)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary, closing(open_run_target(config)) as target:
        apart = RunFolder(Path(temporary))
        shutil.copy(folder.baseline, apart.baseline)
        pipeline = make_pipeline(intake, data, target, apart, config, capabilities_in(state.environment), threads=threads, cached=False)
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
    return Plan.from_json(attributes[keys.PLAN]), Outcome.from_json(attributes[keys.OUTCOME])


def _climbed(evaluate: PlanEvaluator, plan: Plan, rung: Rung, number: int) -> Outcome:
    """Return the outcome at a rung, reached as a trial reaches it."""
    outcome = evaluate(plan, Rung.COSTS, number)
    for step in evaluate.effort.ladder()[1:]:
        if step <= rung:
            outcome = evaluate(plan, step, number)
    return outcome
