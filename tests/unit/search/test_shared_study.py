"""One study, several searches: each stands for a process on a host of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from paretopress.errors import ConfigError
from paretopress.graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph
from paretopress.measurement import Budget, Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Bounds
from paretopress.search.claims import Claims
from paretopress.search.journal import create_study, open_study
from paretopress.search.limits import Limits
from paretopress.search.places import StudyPlace
from paretopress.search.study import Search
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("a", "b", "c", "d")
LAYERS = tuple(Layer(name, LayerKind.CONV, 64, 64, (3, 3), (1, 1), 1, 1_000_000, 9_216, (64, 8, 8)) for name in NAMES)
GROUPS = tuple(ChannelGroup(name, 64, (name,)) for name in NAMES)
GRAPH = ModelGraph((3, 8, 8), (10,), LAYERS, GROUPS, (), tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES), ())
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8))
BOUNDS = Bounds(Budget(speedup=1.1), 10.0, 90.0)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    return StudyPlace(f"sqlite:///{tmp_path / 'study.db'}?timeout=60", "night")


def made_up(plan: Plan, rung: Rung, number: int) -> Outcome:
    left = sum(1.0 - kept / 64 for kept in plan.kept.values())
    ms = 10.0 - 2.0 * left - 0.5 * len(plan.bits)
    latency = Latency(ms, (0.99 * ms, 1.01 * ms), ms / 10.0, (0.099 * ms, 0.101 * ms), ms, ms, 10.0, 8, 100, 0.1)
    return Outcome(rung, 90.0 - left - 0.1 * len(plan.bits), 100, 10, latency, 1_000, "model.onnx", f"{number:064d}")


def joined(place: StudyPlace, worker: str, evaluate: Any, limits: Limits) -> Search:
    study = create_study(place, "guided", SPACE, 0)
    return Search(study, SPACE, evaluate, BOUNDS, limits, 1_000, claims=Claims(study, worker))


def test_searches_share_trials_and_finalists_when_they_share_a_study(place: StudyPlace) -> None:
    calls: Counter[tuple[int, Rung]] = Counter()
    by: dict[str, set[int]] = {"one": set(), "two": set()}
    both = threading.Barrier(2, timeout=60.0)
    limits = Limits(trials=16, finalists=4, stop_early=False)

    def evaluator(worker: str) -> Any:
        def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
            calls[number, rung] += 1
            if not by[worker]:
                by[worker].add(number)
                both.wait()  # each has a trial of its own under way
            by[worker].add(number)
            return made_up(plan, rung, number)

        return evaluate

    one, two = (joined(place, worker, evaluator(worker), limits) for worker in by)
    one.times.begin()
    helper = threading.Thread(target=two.work)
    helper.start()
    one.run([Plan(), Plan(bits={"a": 8})])
    helper.join(60.0)
    assert not helper.is_alive()
    study = open_study(place)
    assert Counter(t.state for t in study.trials)[TrialState.COMPLETE] in (16, 17)  # both may take the last at one moment
    assert set(calls.values()) == {1}
    assert len(one.finals()) == 4
    assert all(by.values())


def test_a_dead_workers_trial_is_tried_once_more_by_another(place: StudyPlace) -> None:
    place = replace(place, grace_s=2)
    dead = create_study(place, "guided", SPACE, 0)
    trial = dead.ask(fixed_distributions=SPACE.distributions())
    dead._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]  # its last word
    time.sleep(3.5)
    search = joined(place, "living", made_up, Limits(trials=5, finalists=0))
    search.run([])
    (again,) = [t for t in search.study.trials if t.user_attrs.get("retry_of") == trial.number]
    assert search.study.trials[trial.number].state is TrialState.FAIL
    assert (again.state, again.params) == (TrialState.COMPLETE, trial.params)


def test_work_gives_the_trial_back_when_it_is_told_to_leave(place: StudyPlace) -> None:
    class Leaving(SystemExit):
        pass

    def leaves(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 2:
            raise Leaving
        return made_up(plan, rung, number)

    search = joined(place, "one", leaves, Limits(trials=6, finalists=0))
    with pytest.raises(Leaving):
        search.run([])
    trials = search.study.trials
    assert trials[2].state is TrialState.FAIL
    assert [t.user_attrs.get("retry_of") for t in trials if t.state is TrialState.WAITING] == [2]
    other = joined(place, "two", made_up, Limits(trials=6, finalists=0))
    other.work()
    assert len(other.short_candidates()) == 6


def test_open_study_says_what_is_missing(place: StudyPlace) -> None:
    create_study(place, "random", SPACE, 0)
    with pytest.raises(Exception, match="must hold the study that is named"):
        open_study(StudyPlace(place.url, "another"))
    with pytest.raises(ConfigError, match="in reach"):
        open_study(StudyPlace("sqlite:////no/such/folder/study.db", "night"))
