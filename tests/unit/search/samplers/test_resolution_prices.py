"""The resolution as a choice: priced by the share of the pixels, solved for, proposed among the initial plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from three_layers import GRAPH, TABLES

from paretopress.core.plan import Plan
from paretopress.errors import ConfigError
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans
from paretopress.search.samplers.predictor import MeasuredTrial, Predictor
from paretopress.spaces.space import RESOLUTION, SearchSpace, SpaceOptions, share_of_pixels

SPACE = SearchSpace(replace(GRAPH, branches=()), SpaceOptions(channel_step=16, resolution=(1.0, 0.75, 0.5)))
PRICED = replace(TABLES, damages={**TABLES.damages, "prune/conv1": {0.5: 0.05}, RESOLUTION: {0.75: 0.001, 0.5: 0.3}})


def test_params_and_plan_are_one_another_s_inverse_at_a_resolution() -> None:
    plan = SPACE.plan(SPACE.defaults() | {RESOLUTION: 0.75, "bits/stem": 8})
    assert plan == Plan(bits={"stem": 8}, resolution=0.75)
    assert SPACE.plan(SPACE.params(plan)) == plan
    assert Plan.from_json(plan.to_json()) == plan
    assert "resolution" not in Plan().to_json()  # plans of before keep their digests


def test_solved_plans_cost_what_their_resolution_does() -> None:
    predictor = Predictor(SPACE, PRICED)
    solved = predictor.at_each_resolution(predictor.tables_alone, 1.8)
    prices = {params[RESOLUTION]: predictor.tables_alone.cost(params) * share_of_pixels(params) for params in solved}
    assert prices.keys() == {0.75, 0.5}  # int8 and pruned it takes 2.7 ms at full resolution
    assert all(price <= 1.8 for price in prices.values())
    assert min(solved, key=predictor.tables_alone.damage)[RESOLUTION] == 0.75


def test_programme_learns_the_same_from_trials_at_any_resolution() -> None:
    predictor = Predictor(SPACE, PRICED)
    full = SPACE.defaults()
    lower = full | {RESOLUTION: 0.5}
    slow = [MeasuredTrial(params, 2.0 * 12.5 * share_of_pixels(params), None) for params in (full, lower)]
    costs = [predictor.programme([trial] * 40, 90.0).cost(full) for trial in slow]
    assert costs[0] == pytest.approx(costs[1])
    assert costs[0] == pytest.approx(25.0, rel=0.05)


def test_initial_and_ladder_plans_try_each_resolution() -> None:
    found = initial_plans(SPACE, ())
    assert {plan.resolution for plan in found} == {1.0, 0.75, 0.5}
    ladder = ladder_plans(SPACE, Predictor(SPACE, PRICED), 6.0)
    assert {plan.resolution for plan in ladder} == {1.0, 0.75, 0.5}


def test_space_without_resolutions_refuses_a_plan_that_has_one() -> None:
    plain = SearchSpace(SPACE.graph, replace(SPACE.options, resolution=(1.0,)))
    assert RESOLUTION not in plain.defaults()
    with pytest.raises(ConfigError, match=r"the resolution must be one of the space, but got 0\.75"):
        plain.params(Plan(resolution=0.75))
