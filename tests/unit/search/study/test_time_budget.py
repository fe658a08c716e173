from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest

from paretopress.search.early_stopping import EarlyStop
from paretopress.search.limits import Limits
from paretopress.search.storage.records import Records
from paretopress.search.study.thread_pool import thread_pool
from paretopress.search.study.time_budget import TimeBudget


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize", "minimize"])


def timetable(study: optuna.Study, limits: Limits, now: list[float], **more: float) -> TimeBudget:
    return TimeBudget(Records(study), limits, clock=lambda: now[0], **more)


def test_elapsed_goes_on_where_the_last_process_ended(study: optuna.Study) -> None:
    now = [100.0]
    first = timetable(study, Limits(seconds=1_000.0), now, setup_s=5.0)
    now[0] += 20.0
    assert first.elapsed_s == 25.0
    first.note()
    now[0] += 500.0  # nobody works on it
    second = timetable(study, Limits(seconds=1_000.0), now, setup_s=5.0)
    now[0] += 10.0
    assert second.elapsed_s == 35.0
    assert second.left_s == 965.0


def test_take_up_counts_what_a_killed_process_had_not_written_down(study: optuna.Study) -> None:
    now = [100.0]
    timetable(study, Limits(seconds=1_000.0), now, setup_s=5.0).note()
    second = timetable(study, Limits(seconds=1_000.0), now, setup_s=5.0)
    now[0] += 3.0
    second.resume_at(65.0)
    assert second.elapsed_s == 65.0
    now[0] += 10.0
    assert second.elapsed_s == 75.0
    second.resume_at(20.0)  # less than is known
    assert second.elapsed_s == 75.0


def test_rest_trials_counts_what_is_under_way_for_a_limit_of_trials(study: optuna.Study) -> None:
    times = timetable(study, Limits(trials=10), [0.0])
    assert times.rest_trials([1.0] * 4, under_way=2) == 4.0
    assert math.isinf(times.left_s)


def test_rest_trials_expects_the_third_quartile_when_time_is_the_limit(study: optuna.Study) -> None:
    now = [0.0]
    times = timetable(study, Limits(seconds=100.0, finalist_share=0.4), now)
    assert math.isinf(times.rest_trials([]))
    now[0] = 20.0
    assert times.rest_trials([2.0, 4.0, 5.0, 20.0, None]) == pytest.approx((60.0 - 20.0) / 5.0)
    assert times.rest_trials([2.0, 4.0]) == pytest.approx((100.0 - 20.0) / 4.0)  # too few trials to leave time to finalists
    times.closing_s = 8.0
    assert times.rest_trials([2.0, 4.0]) == pytest.approx((100.0 - 20.0 - 8.0) / 4.0)  # what follows them is kept


def test_rest_trials_expects_what_the_last_took_when_the_machine_is_busier(study: optuna.Study) -> None:
    times = timetable(study, Limits(seconds=1_000.0, finalist_share=0.4), [0.0])
    assert times.rest_trials([1.5] * 40 + [30.0] * 8) == pytest.approx(600.0 / 30.0)
    assert times.rest_trials([30.0] * 40 + [1.5] * 8) == pytest.approx(600.0 / 30.0)


def test_run_ends_after_the_finalists_share_when_the_trials_ended_early(study: optuna.Study) -> None:
    now = [0.0]
    times = timetable(study, Limits(seconds=100.0, finalist_share=0.4), now, closing_s=10.0)
    now[0] = 30.0
    times.start_finalists()
    now[0] = 35.0
    assert times.in_finalists
    assert times.phase_s == 5.0
    assert (times.end_s, times.left_s) == (100.0, 55.0)
    times.records.add_early_stop(EarlyStop(60, 30, 0.0, 40, 0.0))
    assert (times.end_s, times.left_s) == (70.0, 25.0)


def test_thread_pool_raises_the_first_error_and_stops_the_others(tmp_path: Path) -> None:
    stopped: list[bool] = []
    turns = iter((ValueError("first"), None))

    def loop() -> None:
        error = next(turns)
        if error is not None:
            raise error

    with pytest.raises(ValueError, match="first"), thread_pool(2, lambda: stopped.append(True)) as together:
        together(loop)
    assert stopped == [True]


def test_thread_pool_runs_in_this_thread_when_alone() -> None:
    done: list[int] = []
    with thread_pool(1, lambda: None) as together:
        together(lambda: done.append(1))
        together(lambda: done.append(2))
    assert done == [1, 2]
