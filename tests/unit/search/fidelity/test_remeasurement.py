"""Latencies that are measured again: what it costs when one cannot be."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from four_layers import BOUNDS, SPACE, made_up

from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import RunError, TargetLostError
from paretopress.search.fidelity.remeasurement import Remeasurement
from paretopress.search.limits import Limits
from paretopress.search.storage import records as keys
from paretopress.search.storage.records import Records
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search


@pytest.fixture
def repeats() -> Remeasurement:
    """Of two candidates of the front, "a" and "b"."""
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for name, plan in (("a", Plan()), ("b", Plan(bits={"a": 8}))):
        trial = study.ask(fixed_distributions=SPACE.distributions())
        outcome = replace(made_up(plan, Rung.SHORT, trial.number), onnx_sha256=name, macs=10 - trial.number)
        ms = 1.0 + trial.number
        latency = replace(outcome.latency, latency_ms=ms, latency_ci_ms=(ms, ms), ratio=ms / 10.0, ratio_ci=(ms / 10.0, ms / 10.0))
        trial.set_user_attr(keys.PLAN, plan.to_json())
        trial.set_user_attr(keys.OUTCOME, replace(outcome, latency=latency).to_json())
        study.tell(trial, [outcome.val_accuracy, outcome.macs, ms])
    return Remeasurement(Records(study), BOUNDS, threading.RLock())


def test_take_turns_to_what_may_meet_the_costs_when_all_lost_too_much(repeats: Remeasurement) -> None:
    budget = Budget(latency_ms=1.5, max_drop=0.001)  # "a" takes 1 ms and "b" 2
    hopeless = Remeasurement(repeats.records, replace(BOUNDS, budget=budget, baseline_accuracy=200.0), threading.RLock())
    taken = hopeless.take(6, final=False)
    assert taken is not None
    assert taken.outcome.onnx_sha256 == "a"
    hopeless.measure(taken, lambda outcome: outcome.latency)
    again = hopeless.take(6, final=False)
    assert again is not None
    assert again.outcome.onnx_sha256 == "a"


@pytest.mark.parametrize(
    "error", [RunError("artifacts must be readable, but got 503"), FileNotFoundError("model.onnx"), ValueError("a hundred others")]
)
def test_measure_costs_the_occasion_alone_when_anything_fails(repeats: Remeasurement, error: Exception) -> None:
    def fails(_: Outcome) -> Latency:
        raise error

    taken = repeats.take(6, final=False)
    assert taken is not None
    reason = repeats.measure(taken, fails)
    assert isinstance(reason, str)
    assert str(error) in reason
    assert repeats.records.latencies() == {}


def test_take_turns_to_the_others_when_a_file_fails(repeats: Remeasurement) -> None:
    tried = []

    def fails(outcome: Outcome) -> Latency:
        tried.append(outcome.onnx_sha256)
        if outcome.onnx_sha256 == "a":
            raise RunError("an artifact must be there, but trials/0000/model.onnx is not")
        return outcome.latency

    while (taken := repeats.take(3, final=False)) is not None:
        repeats.measure(taken, fails)
    assert tried == ["a", "b", "b", "a", "a"]


def test_measure_raises_when_nothing_can_be_measured(repeats: Remeasurement) -> None:
    def fails(_: Outcome) -> Latency:
        raise TargetLostError("the target must be in reach")

    taken = repeats.take(6, final=False)
    assert taken is not None
    with pytest.raises(TargetLostError):
        repeats.measure(taken, fails)


def test_run_ends_with_final_points_measured_when_a_file_is_gone(tmp_path: Path) -> None:
    def named(plan: Plan, rung: Rung, number: int) -> Outcome:
        return replace(made_up(plan, rung, number), onnx_sha256=f"{number}-{int(rung)}")

    def again(outcome: Outcome) -> Latency:
        if outcome.onnx_sha256 == "0-3":
            raise FileNotFoundError(outcome.onnx_path)
        return outcome.latency

    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    run = Search(study, SPACE, named, BOUNDS, Limits(trials=3, finalists=3), 1_000)
    run.measure_again = again
    run.run([Plan()])
    measured = {name: len(latencies) for name, latencies in run.records.latencies().items() if name.endswith("-3")}
    assert "0-3" not in measured
    assert measured
