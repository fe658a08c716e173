"""Where a run stands, read from its journal without touching the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretopress.config import parse_config
from paretopress.run_folder import open_run_folder
from paretopress.search.candidates import Bounds, best, front
from paretopress.search.journal import count_trials, failure_reasons, open_study, stored_candidates, stored_finals
from paretopress.search.study import describe
from paretopress.setup_run import RunState


def run_status(run: Path) -> dict[str, Any]:
    """Return the state of a run: phase, counts, elapsed seconds, best point, front size, reasons of failed trials.

    Raises: RunFolderError: the path is not a run.
    """
    folder = open_run_folder(run)
    config = parse_config(folder.read(folder.config), str(folder.config))
    if not folder.state.is_file() or not folder.journal.is_file():
        return {"run": str(run), "phase": "preparing"}
    state = RunState.from_json(folder.read(folder.state))
    bounds = Bounds(config.checked_budget(), state.baseline.latency.latency_ms, state.baseline.val_accuracy)
    study = open_study(folder.journal)
    finals = stored_finals(study)
    points = front(stored_candidates(study), bounds)
    chosen = best(points, bounds, state.data_sizes["val"])
    counts = count_trials(study)
    return {
        "run": str(run),
        "phase": "finished" if folder.front.is_file() else "finalists" if finals else "searching",
        "completed": counts.completed,
        "rejected_early": counts.rejected_early,
        "outraced": counts.outraced,
        "failed": counts.failed,
        "finalists": len(finals),
        "elapsed_s": round(float(study.user_attrs.get("elapsed_s", state.setup_s)), 1),
        "given_s": config.limits().seconds,
        "budget_ms": round(bounds.limit_ms, 4),
        "best": describe(chosen.outcome, bounds) if chosen else "none yet",
        "front_size": len(points),
        "failures": failure_reasons(study),
    }
