"""A search with time left and no candidate within every bound goes on: with finalists that lost too much, longer ones, then with trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from four_layers import SPACE, made_up

from paretopress.core.outcome import Budget, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.fidelity.finalists import next_finalist
from paretopress.search.limits import Limits
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search

BOUNDS = Bounds(Budget(speedup=1.1, max_drop=0.05), 10.0, 90.0)
TRIAL_S, FINALIST_S = 5.0, 15.0


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def searched(tmp_path: Path, good_from: int, **limits: Any) -> tuple[Search, list[float]]:
    """Return a finished search in which plans lose nothing in full recovery from a trial on, and its clock."""
    now = [0.0]

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += FINALIST_S if rung is Rung.FINAL else TRIAL_S
        found = made_up(plan, rung, number)
        lost = 0.0 if rung is Rung.FINAL and number >= good_from else 40.0
        return replace(found, val_accuracy=90.0 - lost)

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    search = Search(study, SPACE, evaluate, BOUNDS, Limits(**limits), 1_000, clock=lambda: now[0], ladder=(Rung.COSTS, Rung.SHORT))
    search.run([])
    return search, now


def test_next_finalist_is_one_that_lost_too_much_when_no_other_is_left() -> None:
    hopeless = replace(made_up(Plan(kept={"a": 8, "b": 8}), Rung.SHORT, 1), val_accuracy=50.0)
    slow = replace(made_up(Plan(), Rung.SHORT, 2), val_accuracy=89.99)
    rejected = replace(hopeless, rejected="cannot join the front", rung=Rung.COSTS)
    candidates = [Candidate(n, Plan(), o) for n, o in ((1, hopeless), (2, slow), (3, rejected))]
    assert not BOUNDS.promising(hopeless)
    chosen = next_finalist(candidates, {}, BOUNDS, 1_000)
    assert chosen is not None
    assert chosen.number == 1


def test_run_uses_its_time_when_no_finalist_is_within(tmp_path: Path) -> None:
    search, now = searched(tmp_path, good_from=10**6, seconds=200.0, finalists=2)
    assert 0.9 * 200.0 - FINALIST_S <= now[0] <= 200.0 + FINALIST_S
    assert len(search.finals()) > 2
    assert not any(BOUNDS.feasible(outcome) for outcome in search.finals().values())


def test_run_ends_within_the_bounds_when_a_later_round_finds_a_plan(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = max(searched(tmp_path / "first", good_from=10**6, seconds=100.0)[0].finals())
    (tmp_path / "second").mkdir()
    search, _ = searched(tmp_path / "second", good_from=first + 1, seconds=300.0)
    assert any(BOUNDS.feasible(outcome) for outcome in search.finals().values())


def test_run_ends_after_its_finalists_when_trials_are_its_limit(tmp_path: Path) -> None:
    search, _ = searched(tmp_path, good_from=10**6, trials=6, finalists=2)
    assert (search.counts().all, len(search.finals())) == (6, 2)


def longer_is_better(tmp_path: Path, bound: float, **limits: Any) -> tuple[Search, list[float]]:
    """Return a finished search in which a finalist of n times the planned steps loses 1 / n points, and these n."""
    now, shares = [0.0], list[float]()

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.FINAL:
            return in_part(plan, number, 1.0)
        now[0] += TRIAL_S
        return replace(made_up(plan, rung, number), val_accuracy=89.2)

    def in_part(plan: Plan, number: int, share: float) -> Outcome:
        shares.append(share)
        now[0] += share * FINALIST_S
        return replace(made_up(plan, Rung.FINAL, number), val_accuracy=90.0 - 1.0 / share)

    bounds = Bounds(Budget(speedup=1.1, max_drop=bound), 10.0, 90.0)
    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    ladder = (Rung.COSTS, Rung.SHORT)
    given = Limits(seconds=300.0, **limits)
    search = Search(study, SPACE, evaluate, bounds, given, 1_000, clock=lambda: now[0], ladder=ladder, recover_in_part=in_part)
    search.run([])
    return search, shares


def test_finalists_are_trained_longer_while_none_is_within_the_drop(tmp_path: Path) -> None:
    search, shares = longer_is_better(tmp_path, 0.3)
    assert shares[:2] == [1.0, 2.0]
    assert shares[2] >= 4.0
    assert any(search.bounds.feasible(outcome) for outcome in search.finals().values())
    assert search.times.elapsed_s <= 300.0


def test_finalists_keep_their_steps_once_one_is_within_the_drop(tmp_path: Path) -> None:
    _, shares = longer_is_better(tmp_path, 0.5)
    assert shares[:4] == [1.0, 2.0, 1.0, 1.0]


def test_finalists_keep_their_steps_where_the_user_gave_them(tmp_path: Path) -> None:
    search, shares = longer_is_better(tmp_path, 0.3, longer_finalists=False)
    assert max(shares) == 1.0
    assert not any(search.bounds.feasible(outcome) for outcome in search.finals().values())
