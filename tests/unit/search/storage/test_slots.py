"""Places of a limited number of trials: what counts, what is under way, and whose place a retry has."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from four_layers import BOUNDS, SPACE, made_up
from optuna.trial import Trial, TrialState

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import RunError, SearchFailedError, WorkerDiedError
from paretopress.search.limits import Limits
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.records import ERROR, OUTCOME, PLAN, RETRY_OF, Records, retry_once
from paretopress.search.storage.slots import CUT_OFF
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def study() -> optuna.Study:
    """A study in memory, which all that share it see."""
    return optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))


def asked(study: optuna.Study, **attributes: Any) -> Trial:
    trial = study.ask(fixed_distributions=SPACE.distributions())
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    return trial


def begun(study: optuna.Study) -> Trial:
    return asked(study, **{PLAN: Plan().to_json()})


def complete(study: optuna.Study, trial: Trial) -> None:
    trial.set_user_attr(PLAN, Plan().to_json())
    trial.set_user_attr(OUTCOME, made_up(Plan(), Rung.SHORT, trial.number).to_json())
    study.tell(trial, [90.0, 100, 10.0])


def failed(study: optuna.Study, trial: Trial) -> None:
    study.tell(trial, state=TrialState.FAIL)


def shared(study: optuna.Study, worker: str, evaluate: Any, limits: Limits) -> Search:
    return Search(study, SPACE, evaluate, BOUNDS, limits, 1_000, leases=Leases(study, worker))


def test_slots_count_what_failed_for_good_and_no_trial_twice(study: optuna.Study) -> None:
    reason, retried, given_up, cut_off, pending = (begun(study) for _ in range(5))
    reason.set_user_attr(ERROR, "RunError: no such operator")
    cut_off.set_user_attr(CUT_OFF, True)
    assert retry_once(study, retried)
    for trial in (reason, retried, cut_off, pending, asked(study)):  # the last takes the retry and is ended before it begins
        failed(study, trial)
    slots = Records(study).slots()
    assert [trial.number for trial in slots.ended] == [reason.number, pending.number]
    assert (slots.begun, slots.open(), slots.open(below=given_up.number)) == ({given_up.number}, 1, 0)


def test_a_retry_has_the_place_of_what_it_retries_in_every_moment(study: optuna.Study) -> None:
    records, first, second = Records(study), begun(study), begun(study)

    def places() -> tuple[int, int, int]:
        records.refresh()
        return len(records.durations()), records.slots().open(), records.slots().open(below=second.number)

    assert places() == (0, 2, 1)
    assert retry_once(study, first)
    assert places() == (0, 2, 1)  # queued, and what it retries is still under way
    failed(study, first)
    assert places() == (0, 2, 1)
    again = asked(study, **{PLAN: Plan().to_json()})
    assert again.user_attrs[RETRY_OF] == first.number
    assert places() == (0, 2, 1)
    assert not retry_once(study, again)
    failed(study, again)  # cut off a second time: that is its end
    assert places() == (1, 1, 0)
    assert records.failure_reasons() == ["its process ended, and that of its second try too"]


def test_run_tries_the_retry_before_seeds_take_the_last_place(tmp_path: Path) -> None:
    fatal = Plan(bits={"a": 8})
    calls: list[Plan] = []

    def dies_once(plan: Plan, rung: Rung, number: int) -> Outcome:
        calls.append(plan)
        if plan == fatal and calls.count(fatal) == 1:
            raise WorkerDiedError("the process of a trial must live through it, but SIGKILL ended it")
        return made_up(plan, rung, number)

    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    run = Search(study, SPACE, dies_once, BOUNDS, Limits(trials=3, finalists=0), 1_000)
    seeds = [Plan(), fatal, *(Plan(bits={name: 8}) for name in "bcd")]
    run.run(seeds)
    assert [c.plan for c in run.short_candidates()] == [seeds[0], seeds[2], fatal]
    waiting = run.study.get_trials(states=(TrialState.WAITING,))
    assert {SPACE.plan(t.system_attrs["fixed_params"]) for t in waiting} == set(seeds[3:])  # for a run that is given more trials


def test_run_keeps_a_dead_workers_last_trial_and_limit_when_others_ask(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(trials=3, finalists=0)
    lost = begun(study)
    one, two = (shared(study, name, made_up, limits) for name in ("one", "two"))
    ask, enqueue = study.ask, study.enqueue_trial

    def enqueued(*args: Any, **options: Any) -> None:
        two.work()  # between the end of the dead worker's trial and its retry
        enqueue(*args, **options)

    def in_between(**options: Any) -> Trial:
        monkeypatch.undo()
        failed(study, lost)
        monkeypatch.setattr(study, "enqueue_trial", enqueued)
        retry_once(study, lost)
        monkeypatch.undo()
        return ask(**options)

    monkeypatch.setattr(study, "ask", in_between)
    one.work()
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(done) == 3
    assert [t.params for t in done if t.user_attrs.get(RETRY_OF) == lost.number] == [lost.params]


@pytest.mark.parametrize("retry_first", [True, False])
def test_retry_is_kept_when_another_is_asked_for_at_the_same_moment(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, retry_first: bool
) -> None:
    run = shared(study, "one", made_up, Limits(trials=2, finalists=0))
    lost = begun(study)
    complete(study, asked(study))
    retry_once(study, lost)
    failed(study, lost)
    others: list[Trial] = []
    ask = study.ask

    def beaten(**options: Any) -> Trial:
        """Have another process ask in the same moment, before this one or after it."""
        if others:
            return ask(**options)
        first, second = ask(**options), ask(**options)
        mine, other = (first, second) if retry_first else (second, first)
        others.append(other)
        return mine

    monkeypatch.setattr(study, "ask", beaten)
    run.work()
    states = {t.number: t.state for t in study.trials}
    if retry_first:
        assert states[2] is TrialState.COMPLETE  # the retry
    else:
        assert (states[2], states[3]) == (TrialState.RUNNING, TrialState.FAIL)  # another process has the retry, and the last place


def test_a_retry_of_what_had_no_place_waits_when_the_limit_is_reached(study: optuna.Study) -> None:
    run = shared(study, "one", made_up, Limits(trials=2, finalists=0))
    for _ in range(2):
        complete(study, asked(study))
    surplus = asked(study)  # asked for by a process that died before it could give it up
    retry_once(study, surplus)
    failed(study, surplus)
    run.work()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2 + [TrialState.FAIL, TrialState.WAITING]


def test_run_retries_a_trial_whose_worker_died_after_the_trials(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    run = Search(study, SPACE, made_up, BOUNDS, Limits(trials=2, finalists=0), 1_000, leases=Leases(study, "one", 90.0, lambda: now[0]))
    dead = Leases(study, "dead", 90.0, lambda: now[0])
    dead.renew()
    lost = asked(study, **{PLAN: Plan().to_json(), "worker": "dead"})
    monkeypatch.setattr("paretopress.search.study.search.time.sleep", lambda _: now.__setitem__(0, now[0] + 30.0))
    run.run([])
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[2].user_attrs[RETRY_OF] == lost.number


def test_work_leaves_a_result_out_when_another_process_ended_its_trial(study: optuna.Study) -> None:
    def ended_meanwhile(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 1:
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        return made_up(plan, rung, number)

    said: list[str] = []
    run = shared(study, "one", ended_meanwhile, Limits(trials=3, finalists=0))
    run.on_change = said.append
    run.work()
    assert "trial 1: another process had ended it meanwhile, and its result is left out" in said
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("figure", ["val_accuracy", "latency_ms"])
@pytest.mark.parametrize("workers", [1, 2])
def test_run_ends_after_its_trials_when_a_figure_is_not_a_number(tmp_path: Path, figure: str, workers: int) -> None:
    lock, evaluated = threading.Lock(), []

    def collapses(plan: Plan, rung: Rung, number: int) -> Outcome:
        with lock:
            evaluated.append(number)
        found = made_up(plan, rung, number)
        if figure == "val_accuracy":
            return replace(found, val_accuracy=float("nan"))
        return replace(found, latency=replace(found.latency, latency_ms=float("nan")))

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    run = Search(study, SPACE, collapses, BOUNDS, Limits(trials=3, finalists=2), 1_000, workers=workers)
    run.run([Plan()])
    assert len(evaluated) == 3
    assert (run.counts().failed, run.counts().all) == (3, 3)
    assert all(f"{figure}=nan" in reason for reason in run.records.failure_reasons())


def test_run_of_a_time_alone_stops_when_the_first_ten_have_no_score(tmp_path: Path) -> None:
    def collapses(plan: Plan, rung: Rung, number: int) -> Outcome:
        return replace(made_up(plan, rung, number), val_accuracy=float("inf"))

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    run = Search(study, SPACE, collapses, BOUNDS, Limits(seconds=600.0, finalists=0), 1_000)
    with pytest.raises(SearchFailedError, match=r"first 10 trials all failed.*val_accuracy=inf"):
        run.run([Plan()])


def test_run_goes_on_when_a_finalist_has_no_score(tmp_path: Path) -> None:
    def collapses(plan: Plan, rung: Rung, number: int) -> Outcome:
        found = replace(made_up(plan, rung, number), macs=100 + number, onnx_sha256=f"{number}-{int(rung)}")
        return replace(found, val_accuracy=float("nan")) if rung is Rung.FINAL and number % 2 else found

    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    run = Search(study, SPACE, collapses, BOUNDS, Limits(trials=8, finalists=4), 1_000)
    run.run([Plan()])
    assert len(run.records.finals_tried()) == 4
    assert all(number % 2 == 0 for number in run.finals())


def test_run_counts_failures_and_successes_alike_against_its_trials(tmp_path: Path) -> None:
    def fails(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number % 2:
            raise RunError("no such operator")
        return made_up(plan, rung, number)

    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    run = Search(study, SPACE, fails, BOUNDS, Limits(trials=6, finalists=0), 1_000)
    run.run([])
    assert (run.counts().failed, run.counts().all, len(run.study.trials)) == (3, 6, 6)
