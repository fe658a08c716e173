"""A search whose space is used up, or whose sampler proposes copies alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from four_layers import BOUNDS, GRAPH, SPACE, made_up
from optuna.samplers import BaseSampler

from paretopress.core.model_graph import BitGroup
from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import RunError
from paretopress.search.limits import Limits
from paretopress.search.samplers.registry import SAMPLERS
from paretopress.search.storage.records import Records
from paretopress.search.study.create import create_study
from paretopress.search.study.event_format import STOPPED_EARLY
from paretopress.search.study.fresh_plans import FreshPlans
from paretopress.search.study.search import Search
from paretopress.spaces.space import SearchSpace, SpaceOptions


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of_bits(layers: str) -> SearchSpace:
    """Two plans for each of the layers, and nothing else to choose."""
    groups = tuple(BitGroup(name, (name,), (32, 8) if name in layers else (32,)) for name in "abcd")
    graph = replace(GRAPH, channel_groups=(), bit_groups=groups)
    return SearchSpace(graph, SpaceOptions(channel_step=8, temperature=4.0, alpha=0.9, min_share=2.0))


def over_budget(plan: Plan, rung: Rung, number: int) -> Outcome:
    return replace(made_up(plan, Rung.COSTS, number), rejected="over the latency budget")


def search(tmp_path: Path, space: SearchSpace, evaluate: Any, sampler: str = "guided", **options: Any) -> Search:
    study = create_study(tmp_path / "journal.log", sampler, space, 0)
    workers = options.pop("workers", 1)
    return Search(study, space, evaluate, BOUNDS, Limits(finalists=0, **options), 1_000, workers=workers)


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_run_ends_when_every_plan_of_its_space_was_tried(tmp_path: Path, sampler: str) -> None:
    events: list[tuple[str, Any]] = []
    said: list[str] = []
    run = search(tmp_path, space_of_bits("abc"), over_budget, sampler, seconds=600.0)
    run.on_event, run.on_change = (lambda event, fields: events.append((event, fields))), said.append
    run.run([Plan()])
    assert len(run.short_candidates()) == 8
    assert len(run.study.trials) <= 2 * 8  # after a copy comes a new one
    line = "the space is used up: each of its 8 plans was tried"
    assert said.count(line) == 1
    assert [fields for event, fields in events if event == STOPPED_EARLY] == [{"reason": line}]
    again = search(tmp_path, space_of_bits("abc"), over_budget, sampler, trials=500)
    again.run([Plan()])
    assert len(again.study.trials) == len(run.study.trials)


def test_run_ends_when_its_space_holds_one_plan(tmp_path: Path) -> None:
    run = search(tmp_path, space_of_bits(""), made_up, trials=100)
    run.run([Plan()])
    assert len(run.study.trials) == 1


def test_run_ends_when_its_only_plan_fails(tmp_path: Path) -> None:
    def fails(plan: Plan, rung: Rung, number: int) -> Outcome:
        raise RunError("no such operator")

    run = search(tmp_path, space_of_bits(""), fails, seconds=600.0)
    run.run([Plan()])
    assert run.records.failure_reasons() == ["RunError: no such operator"]


def test_run_tries_the_rest_of_its_space_when_some_plans_fail(tmp_path: Path) -> None:
    tried: list[Plan] = []

    def some_fail(plan: Plan, rung: Rung, number: int) -> Outcome:
        tried.append(plan)
        if "a" in plan.bits:
            raise RunError("no such operator")
        return made_up(plan, rung, number)

    run = search(tmp_path, space_of_bits("abcd"), some_fail, seconds=600.0)
    run.run([])
    assert len(set(tried)) == 16
    assert len(run.study.trials) <= 2 * 16


@pytest.mark.parametrize("sampler", ["guided", "random"])
def test_run_ends_for_all_workers_when_its_space_is_used_up(tmp_path: Path, sampler: str) -> None:
    lock, tried = threading.Lock(), list[Plan]()

    def noted(plan: Plan, rung: Rung, number: int) -> Outcome:
        with lock:
            tried.append(plan)
        return over_budget(plan, rung, number)

    run = search(tmp_path, space_of_bits("abcd"), noted, sampler, seconds=600.0, workers=3)
    run.run([Plan()])
    assert len(set(tried)) == 16
    assert len(run.study.trials) <= 3 * 16


def test_run_counts_what_is_under_way_as_tried_when_it_is_anothers(tmp_path: Path) -> None:
    ended, calls = threading.Event(), []

    def waits(plan: Plan, rung: Rung, number: int) -> Outcome:
        calls.append(plan)
        assert ended.wait(30.0)
        return over_budget(plan, rung, number)

    def noted(event: str, _: Any) -> None:
        if event == STOPPED_EARLY:
            ended.set()

    run = search(tmp_path, space_of_bits("a"), waits, "guided", seconds=600.0, workers=3)
    run.on_event = noted
    run.run([Plan(), Plan(bits={"a": 8})])
    assert len(calls) == 2


class Stuck(BaseSampler):
    """Proposes the unchanged model, as a sampler that has converged does."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return dict(SPACE.distributions())

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return dict(SPACE.defaults())

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(param_name)


def test_run_tries_plans_of_its_own_when_the_sampler_copies(tmp_path: Path) -> None:
    run = search(tmp_path, SPACE, made_up, trials=13)
    run.study.sampler = Stuck()
    run.run([])
    copies = [t for t in run.study.trials if "copy_of" in t.user_attrs]
    assert len(run.short_candidates()) == 1 + 3
    assert len(copies) == 9  # three before each new one


def test_proposal_says_that_a_large_space_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(optuna.create_study())
    monkeypatch.setattr(Records, "copies_in_a_row", lambda _, most: most)
    monkeypatch.setattr(Records, "plans", lambda _: {Plan()})
    monkeypatch.setattr(SearchSpace, "plan", lambda *_: Plan())
    found = FreshPlans(SPACE).proposal(records, np.random.default_rng(0))
    assert found == "the space is used up: of 512 plans drawn from it each was tried"
