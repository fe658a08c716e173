"""One study, several searches: each stands for a process on a host of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from four_layers import BOUNDS, SPACE, made_up
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import Trial, TrialState

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError
from paretopress.search.limits import Limits
from paretopress.search.storage import studies
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.search.storage.studies import open_study
from paretopress.search.study import create, trial_phase
from paretopress.search.study import search as search_module
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def place(database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyPlace]:
    """A study of this test's own; no connection to it is left open."""
    opened: list[RDBStorage] = []

    def noted(where: Path | StudyPlace) -> BaseStorage:
        storage = open_storage(where)
        assert isinstance(storage, RDBStorage)
        opened.append(storage)
        return storage

    for module in (studies, create):
        monkeypatch.setattr(module, "open_storage", noted)
    yield StudyPlace(database, request.node.name)
    for storage in opened:
        storage.engine.dispose()


def joined(place: StudyPlace, worker: str, evaluate: Any, limits: Limits) -> Search:
    study = create_study(place, "guided", SPACE, 0)
    return Search(study, SPACE, evaluate, BOUNDS, limits, 1_000, leases=Leases(study, worker))


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
    # with four that meet the budget there are four finalists, whatever the two propose beyond them
    met = [Plan(kept=dict.fromkeys(halved, 32), bits=dict.fromkeys("abcd", 8)) for halved in ("", "a", "ab", "abc")]
    one.run([Plan(), Plan(bits={"a": 8}), *met])
    helper.join(60.0)
    assert not helper.is_alive()
    study = open_study(place)
    assert Counter(t.state for t in study.trials)[TrialState.COMPLETE] == 16
    assert set(calls.values()) == {1}
    assert len(one.finals()) == 4
    assert all(by.values())


def test_run_ends_when_the_others_have_left(place: StudyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    search, other = joined(place, "one", made_up, Limits(trials=2, finalists=0)), Leases(open_study(place), "two")
    other.renew()  # it measures a finalist again, which it leases no more
    waited = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda _: other.leave())
    monkeypatch.setattr(search_module, "time", waited)
    search.run([])
    assert Leases(search.study, "three").at_work() == set()


def test_a_trial_is_given_up_when_another_took_the_last_at_the_same_moment(place: StudyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    search = joined(place, "one", made_up, Limits(trials=6, finalists=0))
    other, ask = open_study(place), search.study.ask

    def beaten(**options: Any) -> Trial:
        if len(search.records.durations()) == 5:
            other.ask(fixed_distributions=SPACE.distributions())
        return ask(**options)

    monkeypatch.setattr(search.study, "ask", beaten)
    search.run([])
    assert [t.state for t in search.study.trials] == [TrialState.COMPLETE] * 5 + [TrialState.RUNNING, TrialState.FAIL]


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


def test_searches_look_for_the_dead_no_more_often_than_they_beat(place: StudyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(trial_phase, "fail_stale", lambda *_: looks.append(time.monotonic()))
    search = joined(place, "one", made_up, Limits(trials=8, finalists=0))
    search.run([])
    assert len(search.short_candidates()) == 8
    assert len(looks) == 1


def test_work_gives_the_trial_back_when_it_is_told_to_leave(place: StudyPlace) -> None:
    class LeaveRequested(SystemExit):
        pass

    def leaves(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 2:
            raise LeaveRequested
        return made_up(plan, rung, number)

    search = joined(place, "one", leaves, Limits(trials=6, finalists=0))
    with pytest.raises(LeaveRequested):
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
        open_study(StudyPlace("postgresql+psycopg://press@127.0.0.1:9/none", "night"))


def test_open_study_refuses_a_storage_without_exclusive_trials(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"locks rows.*PostgreSQL"):
        open_study(StudyPlace(f"sqlite:///{tmp_path / 'study.db'}", "night"))
    assert not list(tmp_path.iterdir())
