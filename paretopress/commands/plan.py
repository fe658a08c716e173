"""`paretopress plan`: the plan that a run's tables and trials predict to lose least within a budget; measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from paretopress.commands.terminal import RunArgument, print_json, verb_app
from paretopress.core.model_graph import ModelGraph
from paretopress.errors import BudgetError
from paretopress.run.lookup import stored_config, study_place
from paretopress.run.setup import space_for
from paretopress.run.state import RunState
from paretopress.search.samplers.guided import measured_trials
from paretopress.search.samplers.predictor import MeasuredTrial, Predictor, predicted_ms
from paretopress.search.samplers.tables import CostTables
from paretopress.search.storage.places import StudyPlace
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import open_run_folder
from paretopress.targets.capabilities import capabilities_in

app = verb_app()


def predict_plan(run: Path, latency_ms: float | None) -> dict[str, Any]:
    """Return {"budget_ms", "plan", "predicted": {"latency_ms", "damage"}, "trials"} for a run's model under another budget.

    Args:
        latency_ms: None takes the run's own budget.
    Raises: RunFolderError: the run has no tables yet. BudgetError: no plan is predicted to be as fast.
    """
    folder = open_run_folder(run)
    config = stored_config(folder)
    state = RunState.from_json(folder.read(folder.state))
    bounds = state.bounds(config)
    limit_ms = bounds.limit_ms if latency_ms is None else latency_ms
    space = space_for(ModelGraph.from_json(folder.read(folder.graph)), config, capabilities_in(state.environment))
    predictor = Predictor(space, CostTables.from_json(folder.read(folder.tables)))
    trials = _trials(study_place(folder, config))
    programme = predictor.programme(trials, state.baseline.val_accuracy)
    solved = predictor.at_each_resolution(programme, limit_ms)
    if not solved:
        raise BudgetError(f"a plan must be predicted to meet the budget, but none does at {limit_ms:g} ms", "Raise the budget.")
    params = min(solved, key=programme.damage)
    return {
        "budget_ms": limit_ms,
        "plan": space.plan(params).to_json(),
        "predicted": {"latency_ms": predicted_ms(programme, params), "damage": programme.damage(params)},
        "trials": len(trials),
    }


def _trials(place: Path | StudyPlace) -> list[MeasuredTrial]:
    return [] if isinstance(place, Path) and not place.is_file() else measured_trials(open_study(place))


@app.command(epilog="Example: paretopress plan runs/night --latency-ms 2.5")
def plan(
    run: RunArgument,
    latency_ms: Annotated[float | None, typer.Option(help="Upper bound on the p50 of one batch (default: the run's own).")] = None,
) -> None:
    """Print the plan that a run's tables and trials predict to lose least within a budget; measures nothing."""
    print_json(predict_plan(run, latency_ms))
