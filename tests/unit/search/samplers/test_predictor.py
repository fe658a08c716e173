from __future__ import annotations

import json
import math

import numpy as np
import pytest
from three_layers import GRAPH, NAMES, TABLES

from paretopress.core.model_graph import ModelGraph
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans, without_slow
from paretopress.search.samplers.predictor import MeasuredTrial, Predictor, shrunk_fit
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import ALPHA, TEMPERATURE, SearchSpace, SpaceOptions

SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=16))
DISTILLATION = {TEMPERATURE: 4.0, ALPHA: 0.9}


def params(**changes: float) -> dict[str, object]:
    return SPACE.defaults() | {name.replace("__", "/"): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 12.5),  # three layers of 4 ms, and 0.5 ms that belong to none
        ({"bits__stem": 8}, 9.5),
        ({"prune__conv1": 0.5}, 8.7),  # conv1 and conv2: a floor of 0.2 and half of the other 3.8
        ({"prune__conv1": 1.0}, 4.5),
        ({"rank__conv2": 16}, 0.5 + 8.0 + 0.4 + 3.8 * 16 * (288 + 32) / (288 * 32)),  # two nodes
        ({"prune__conv1": 0.5, "rank__conv2": 16}, 0.5 + 4.0 + 2.1 + 0.4 + 3.8 * 0.5 * 16 * (144 + 32) / (144 * 32)),
    ],
)
def test_programme_predicts_latency_as_counted_by_hand_without_trials(changes: dict[str, float], expected: float) -> None:
    assert Predictor(SPACE, TABLES).programme([], 90.0).cost(params(**changes)) == pytest.approx(expected)  # type: ignore[arg-type]


def test_params_take_int8_first_when_it_harms_least() -> None:
    predictor = Predictor(SPACE, TABLES)
    programme = predictor.programme([], 90.0)
    found = predictor.params(programme, 4.0, DISTILLATION)
    assert found is not None
    assert SPACE.plan(found).bits == dict.fromkeys(NAMES, 8)  # 3.5 ms
    tighter = predictor.params(programme, 2.0, DISTILLATION)
    assert tighter is not None
    assert programme.cost(tighter) <= 2.0
    assert predictor.params(programme, 0.4, DISTILLATION) is None


def test_programme_learns_a_layer_s_true_cost_when_trials_show_it() -> None:
    rng = np.random.default_rng(0)
    predictor = Predictor(SPACE, TABLES)
    told = predictor.programme([], 90.0)
    trials = []
    for _ in range(60):
        drawn = {variable.name: variable.sample(rng) for variable in SPACE.variables} | DISTILLATION
        stem = next(cost for cost in told.costs if "bits/stem" in cost.scope)
        extra = stem.table[tuple(drawn[name] for name in stem.scope)]  # the stem takes twice what the tables say
        trials.append(MeasuredTrial(drawn, told.cost(drawn) + extra, 80.0))
    learned = predictor.programme(trials, 90.0)
    true_ms = 12.5 + 4.0
    assert abs(learned.cost(params()) - true_ms) < 0.15 * true_ms  # type: ignore[arg-type]
    assert abs(learned.cost(params()) - true_ms) < abs(told.cost(params()) - true_ms)  # type: ignore[arg-type]


def test_programme_learns_which_damage_is_real_when_trials_show_it() -> None:
    rng = np.random.default_rng(0)
    predictor = Predictor(SPACE, TABLES)
    trials = []
    for _ in range(60):
        drawn = {variable.name: variable.sample(rng) for variable in SPACE.variables} | DISTILLATION
        lost = 0.1 if drawn["bits/stem"] == 8 else 0.0  # int8 of the stem harms, and nothing else does
        trials.append(MeasuredTrial(drawn, 5.0, 90.0 * math.exp(-lost)))
    learned = predictor.programme(trials, 90.0)
    assert learned.damages["bits/stem"][8] > 3 * learned.damages["bits/conv1"][8]


def test_shrunk_fit_returns_the_prior_when_the_targets_agree_with_it() -> None:
    features = np.random.default_rng(0).random((10, 3))
    prior = np.array([1.0, 2.0, 0.5])
    assert shrunk_fit(features, features @ prior, prior) == pytest.approx(prior)


def test_shrunk_fit_matches_hand_count_when_there_is_one_trial() -> None:
    # (1 + 4) b = 1 * (3 - 1): the prior of 1 counts like four trials
    assert shrunk_fit(np.array([[1.0]]), np.array([3.0]), np.array([1.0])) == pytest.approx([1.4])


def test_tables_survive_json_when_values_are_none_and_numbers() -> None:
    assert CostTables.from_json(TABLES.to_json()) == TABLES


def test_model_graph_survives_json() -> None:
    assert ModelGraph.from_json(json.loads(json.dumps(GRAPH.to_json()))) == GRAPH


def test_ladder_plans_fall_in_predicted_latency_when_budgets_do() -> None:
    predictor = Predictor(SPACE, TABLES)
    plans = ladder_plans(SPACE, predictor, 8.0)
    programme = predictor.programme([], 90.0)
    costs = [programme.cost(SPACE.params(plan)) for plan in plans]
    assert len(plans) >= 3
    assert costs == sorted(costs, reverse=True)
    assert costs[0] <= 8.0


def test_without_slow_keeps_the_first_two_and_what_may_be_within() -> None:
    predictor = Predictor(SPACE, TABLES)
    plans = initial_plans(SPACE, [])
    costs = {plan: predictor.tables_alone.cost(SPACE.params(plan)) for plan in plans}
    limit_ms = max(costs[plan] for plan in plans[2:]) / 1.21
    kept = without_slow(plans, SPACE, predictor, limit_ms)
    assert kept[:2] == plans[:2]
    assert len(kept) < len(plans)
    assert set(plans[2:]) - set(kept) == {plan for plan in plans[2:] if costs[plan] > 1.2 * limit_ms}
    assert without_slow(plans, SPACE, predictor, 0.01) == [*plans[:2], min(plans[2:], key=costs.__getitem__)]
