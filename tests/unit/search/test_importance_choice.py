"""A search in a space that leaves the criterion to each plan."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from four_layers import BOUNDS, GRAPH, NAMES, made_up

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Criterion, Plan
from paretopress.search.candidates import front
from paretopress.search.limits import Limits
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.samplers.tables import CostTables
from paretopress.search.study.search import Search
from paretopress.spaces.space import SearchSpace, SpaceOptions

SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8, importance=(Criterion.L2, Criterion.TAYLOR, Criterion.APOZ)))


def better_by_taylor(plan: Plan, rung: Rung, number: int) -> Outcome:
    """Figures of `made_up`, but channels that Taylor chose cost half as much."""
    outcome = made_up(plan, rung, number)
    lost = BOUNDS.baseline_accuracy - outcome.val_accuracy
    return replace(outcome, val_accuracy=BOUNDS.baseline_accuracy - (0.5 * lost if plan.importance is Criterion.TAYLOR else lost))


@pytest.mark.parametrize("sampler", ["guided", "programme", "tpe"])
def test_run_finds_the_criterion_that_loses_least_when_several_are_offered(sampler: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    damages = {f"prune/{name}": {round(1.0 - keep / 64, 4): 0.1 * (1.0 - keep / 64) for keep in range(8, 64, 8)} for name in NAMES}
    predictor = Predictor(SPACE, CostTables({name: {32: 2.0, 8: 1.0} for name in NAMES}, {32: 1.0, 8: 1.0}, 0.1, damages))
    known = PriorKnowledge(predictor, BOUNDS.limit_ms, BOUNDS.baseline_accuracy)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler(sampler, SPACE, 0, known))
    search = Search(study, SPACE, better_by_taylor, BOUNDS, Limits(trials=100, finalists=0), 1_000)
    search.run([*initial_plans(SPACE, []), *ladder_plans(SPACE, predictor, BOUNDS.limit_ms)])
    tried = [candidate.plan.importance for candidate in search.short_candidates() if candidate.plan.kept]
    best = [point.plan.importance for point in front(search.candidates(), BOUNDS) if point.plan.kept]
    assert len(set(tried)) > 1
    assert best.count(Criterion.TAYLOR) > len(best) / 2
