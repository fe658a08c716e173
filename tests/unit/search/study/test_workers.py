"""A search whose trials are evaluated in other processes, several at a time, and what it does when one of them dies."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from four_layers import BOUNDS, SPACE, made_up
from optuna.trial import TrialState

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError, TargetLostError, WorkerDiedError
from paretopress.search.candidates import Candidate, front
from paretopress.search.limits import Limits
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(tmp_path: Path, evaluate: Any, limits: Limits, **fields: Any) -> Search:
    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    return Search(study, SPACE, evaluate, BOUNDS, limits, 1_000, **fields)


def test_run_tries_a_trial_once_more_when_its_process_died(tmp_path: Path) -> None:
    def dies(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 2:
            raise WorkerDiedError("the process of a trial must live through it, but SIGKILL ended it")
        return made_up(plan, rung, number)

    events: list[tuple[str, Any]] = []
    run = search(tmp_path, dies, Limits(trials=8, finalists=0), on_event=lambda event, fields: events.append((event, fields)))
    run.run([])
    trials = run.study.trials
    (again,) = [t for t in trials if t.user_attrs.get("retry_of") == 2]
    assert (trials[2].state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == trials[2].params
    assert run.records.failure_reasons() == []
    assert len(run.short_candidates()) == 8  # the trial that died took none of the eight
    assert [fields["trial"] for event, fields in events if event == "retried"] == [2]


def test_run_records_the_reason_when_the_process_of_a_trial_dies_twice(tmp_path: Path) -> None:
    fatal = Plan(kept={"a": 32})

    def dies(plan: Plan, rung: Rung, number: int) -> Outcome:
        if plan == fatal:
            raise WorkerDiedError("a trial must answer within 600 s, but it hung")
        return made_up(plan, rung, number)

    run = search(tmp_path, dies, Limits(trials=6, finalists=0))
    run.run([Plan(), fatal])
    assert run.records.failure_reasons() == ["WorkerDiedError: a trial must answer within 600 s, but it hung"]
    assert run.counts().failed == 2
    assert run.counts().all - run.counts().failed == 5  # the plan that failed for good is the sixth


def test_run_blames_no_trial_when_it_was_cut_off_at_the_end(tmp_path: Path) -> None:
    now = [0.0]

    def slow(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 10.0
        if now[0] > 60.0:
            raise OutOfTimeError("a trial must end with the run, but was cut off")
        return made_up(plan, rung, number)

    run = search(tmp_path, slow, Limits(seconds=100.0, finalist_share=0.0, finalists=0), clock=lambda: now[0])
    run.run([])
    assert run.records.failure_reasons() == []


def test_run_gives_the_last_finalist_what_time_is_left(tmp_path: Path) -> None:
    now, shares, sizes = [0.0], [], []

    def timed(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 20.0 if rung is Rung.FINAL else 1.0
        return made_up(plan, rung, number)

    def in_part(plan: Plan, number: int, share: float) -> Outcome:
        shares.append(share)
        now[0] += 20.0 * share
        return made_up(plan, Rung.FINAL, number)

    def closing_s(points: Sequence[Candidate]) -> float:
        sizes.append(len(points))
        return 3.0

    limits = Limits(seconds=100.0, finalist_share=0.5, finalists=2)
    run = search(tmp_path, timed, limits, clock=lambda: now[0], recover_in_part=in_part, closing_s=closing_s)
    run.run([])
    assert sizes[-1] == len(front(run.candidates(), run.bounds))  # it is kept for the points that are there
    assert len(shares) == 1
    assert 0.3 <= shares[0] < 1.0
    assert run.times.elapsed_s == pytest.approx(97.0)


def test_run_ends_the_finalists_when_there_is_no_time_for_another(tmp_path: Path) -> None:
    now, asked = [0.0], list[int]()

    def timed(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 1.0
        if rung is Rung.FINAL:
            asked.append(number)
            if len(asked) == 2:
                raise OutOfTimeError("30% of 900 steps must fit into the rest of the run, but got 20 s")
        return made_up(plan, rung, number)

    run = search(tmp_path, timed, Limits(seconds=100.0, finalist_share=0.5, finalists=6), clock=lambda: now[0])
    run.run([])
    assert len(asked) == 2
    assert list(run.finals()) == asked[:1]  # and nothing is held against the second


def test_run_measures_final_files_again_as_far_as_the_time_goes(tmp_path: Path) -> None:
    now = [0.0]

    def timed(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 10.0 if rung is Rung.FINAL else 1.0
        return made_up(plan, rung, number)

    def again(outcome: Outcome) -> Latency:
        now[0] += 4.0 if run.times.in_finalists else 0.0
        return outcome.latency

    limits = Limits(seconds=100.0, finalist_share=0.5, finalists=3)
    run = search(tmp_path, timed, limits, clock=lambda: now[0], closing_s=lambda _: 11.0, ending_s=lambda _: 3.0)
    run.measure_again = again
    run.run([])
    assert 90.0 < now[0] <= 97.0


def test_run_evaluates_each_trial_once_when_several_work(tmp_path: Path) -> None:
    calls: Counter[tuple[int, Rung]] = Counter()
    together = threading.Barrier(3, timeout=20.0)

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        calls[number, rung] += 1
        if number < 3 and rung is Rung.COSTS:
            together.wait()  # passes when three trials are under way
        return made_up(plan, rung, number)

    measured: list[str] = []
    run = search(tmp_path, evaluate, Limits(trials=30, finalists=4), workers=3)
    run.measure_again = lambda found: measured.append(found.onnx_sha256) or found.latency  # type: ignore[func-returns-value]
    run.run([])
    assert len([t for t in run.study.trials if t.state is TrialState.COMPLETE]) == 30
    assert set(calls.values()) == {1}
    assert len(run.finals()) == 4
    assert measured


def test_run_ends_all_workers_when_one_loses_the_target(tmp_path: Path) -> None:
    cancelled = threading.Event()
    started = threading.Barrier(2, timeout=10.0)

    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.COSTS:
            started.wait()
        if number == 0:
            raise TargetLostError("the target must be in reach, but got no answer")
        assert cancelled.wait(10.0), "nobody cancelled the other worker"
        raise WorkerDiedError("its process was ended")

    run = search(tmp_path, evaluate, Limits(trials=30, finalists=0), workers=2, cancel=cancelled.set)
    with pytest.raises(TargetLostError):
        run.run([])
    assert [t.state for t in run.study.trials[:2]] == [TrialState.RUNNING, TrialState.RUNNING]
    assert run.records.failure_reasons() == []
    resumed = search(tmp_path, made_up, Limits(trials=6, finalists=0))
    resumed.run([])
    assert len(resumed.short_candidates()) == 6
    assert {t.user_attrs["retry_of"] for t in resumed.study.trials if "retry_of" in t.user_attrs} == {0, 1}
