"""A search that its user stops, and one that is given more of what bounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from four_layers import BOUNDS, SPACE, made_up

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.limits import Limits
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(tmp_path: Path, evaluate: Any = made_up, **limits: Any) -> Search:
    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    return Search(study, SPACE, evaluate, BOUNDS, Limits(**({"stop_early": False, "finalists": 2} | limits)), 1_000)


def test_run_ends_after_the_trial_under_way_when_it_should_stop(tmp_path: Path) -> None:
    begun: list[int] = []

    def noted(plan: Plan, rung: Rung, number: int) -> Outcome:
        begun.append(number)
        return made_up(plan, rung, number)

    stopped = search(tmp_path, noted, trials=10)
    stopped.should_stop = lambda: 3 in begun
    stopped.run([])
    assert set(begun) == {0, 1, 2, 3}
    assert (stopped.counts().completed, stopped.finals(), stopped.stopped) == (4, {}, True)
    assert not stopped.times.in_finalists


def test_run_goes_on_with_trials_when_it_was_stopped(tmp_path: Path) -> None:
    stopped = search(tmp_path, trials=6)
    stopped.should_stop = lambda: stopped.counts().completed >= 2
    stopped.run([])
    resumed = search(tmp_path, trials=6)
    resumed.run([])
    assert (resumed.counts().completed, len(resumed.finals())) == (6, 2)


def test_run_recovers_no_further_finalist_when_it_should_stop(tmp_path: Path) -> None:
    stopped = search(tmp_path, trials=6)
    stopped.should_stop = lambda: bool(stopped.finals())
    stopped.run([])
    assert (stopped.counts().completed, len(stopped.finals())) == (6, 1)


def test_run_goes_on_with_trials_and_finalists_when_it_is_extended(tmp_path: Path) -> None:
    search(tmp_path, trials=4).run([])
    without = search(tmp_path, trials=8, finalists=4)
    without.run([])
    assert (without.counts().completed, len(without.finals())) == (4, 4)  # finalists had begun
    extended = search(tmp_path, trials=8, finalists=6)
    extended.extend()
    extended.run([])
    assert (extended.counts().completed, len(extended.finals())) == (8, 6)
