from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from paretopress.core.outcome import Budget, Latency, Metric, Outcome, Rung, small_sample_factor
from paretopress.core.plan import Criterion, Plan
from paretopress.errors import BudgetError, ConfigError, LatencyError, RunError


def test_plan_leaves_float_bits_out_when_given() -> None:
    assert Plan(bits={"a": 32, "b": 8}) == Plan(bits={"b": 8})


def test_plan_leaves_the_importance_out_when_it_thins_no_group() -> None:
    assert Plan(kept={"a": 0}, importance=Criterion.TAYLOR) == Plan(kept={"a": 0})
    thinned = Plan(kept={"a": 4}, importance=Criterion.TAYLOR)
    assert thinned != Plan(kept={"a": 4})
    assert Plan.from_json(thinned.to_json()) == thinned
    assert Plan.from_json({"schema": 1, "kept": {"a": 4}}).importance is Criterion.L2  # as plans were before there was a choice


def test_plan_is_immutable_when_a_mapping_is_changed() -> None:
    kept = {"a": 8}
    plan = Plan(kept=kept)
    kept["a"] = 4
    assert plan.kept["a"] == 8
    with pytest.raises(TypeError):
        plan.kept["a"] = 4  # type: ignore[index]


@pytest.mark.parametrize(
    "fields",
    [{"kept": {"a": -1}}, {"rank": {"a": 0}}, {"bits": {"a": 16}}, {"temperature": 0.0}, {"alpha": 1.5}, {"importance": "luck"}],
    ids=lambda fields: next(iter(fields)),
)
def test_plan_raises_when_a_value_is_out_of_range(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Plan(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"schema": 2}, {"width": 3}], ids=["schema", "unknown key"])
def test_from_json_raises_when_the_object_is_not_a_plan(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Plan.from_json(Plan().to_json() | change)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"latency_ms": 1.0, "speedup": 2.0},
        {"latency_ms": -1.0},
        {"speedup": float("nan")},
        {"speedup": "2"},
        {"speedup": 2.0, "max_drop": 0},
    ],
    ids=["neither", "both", "negative", "NaN", "text", "no drop at all"],
)
def test_budget_raises_when_it_is_not_a_bound(fields: dict[str, object]) -> None:
    with pytest.raises(BudgetError):
        Budget(**fields)  # type: ignore[arg-type]


def test_limit_ms_divides_the_baseline_when_the_budget_is_a_speedup() -> None:
    assert Budget(speedup=2.5).limit_ms(10.0) == 4.0
    assert Budget(latency_ms=3.0).limit_ms(10.0) == 3.0


def test_outcome_survives_json_when_read_back() -> None:
    latency = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.2, 1.5, 2.4, 16, 800, 0.8)
    outcome = Outcome(Rung.SHORT, 90.0, 10, 5, latency, 100, "trials/0001/model.onnx", "ab", stages_s={"export": 0.2}, notes=("n",))
    assert Outcome.from_json(outcome.to_json()) == outcome


LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.2, 1.5, 2.4, 16, 800, 0.8)
OUTCOME = Outcome(Rung.SHORT, 90.0, 10, 5, LATENCY, 100, "trials/0001/model.onnx", "ab")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0, None, "1.0"])
@pytest.mark.parametrize("name", ["latency_ms", "ratio", "raw_p50_ms", "baseline_raw_p50_ms"])
def test_latency_names_the_figure_when_it_is_no_time(name: str, bad: object) -> None:
    with pytest.raises(LatencyError, match=re.escape(f"but got {name}={bad!r}")):
        Latency.from_json(LATENCY.to_json() | {name: bad})


@pytest.mark.parametrize("bad", [(0.9, float("nan")), (float("nan"), 1.1), (1.1, 0.9), (0.9, float("inf"))])
def test_latency_names_the_interval_when_it_is_none(bad: tuple[float, float]) -> None:
    for name in ("latency_ci_ms", "ratio_ci"):
        with pytest.raises(LatencyError, match=name):
            replace(LATENCY, **{name: bad})


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf"), "90"])
def test_outcome_names_the_score_when_it_is_no_number(bad: object) -> None:
    with pytest.raises(RunError, match="score must be a finite number, but got val_accuracy"):
        Outcome.from_json(OUTCOME.to_json() | {"val_accuracy": bad})
    for name in ("test_accuracy", "val_error"):
        with pytest.raises(RunError, match=name):
            replace(OUTCOME, **{name: bad})


@pytest.mark.parametrize(
    ("metric", "score", "shown"),
    [
        (Metric(), 86.012, "86.01 %"),
        (Metric(), 0.0, "0.00 %"),
        (Metric("dice", ""), 0.86012, "0.8601"),
        (Metric("dice", ""), 0.012345, "0.01235"),
        (Metric("error", "mm", higher_is_better=False), -3.2, "3.20 mm"),
        (Metric("error", "um", higher_is_better=False), -1234.5, "1234.50 um"),
    ],
)
def test_metric_shows_as_many_decimals_as_tell_scores_apart(metric: Metric, score: float, shown: str) -> None:
    assert metric.shown(score) == shown


def test_metric_shows_a_difference_to_the_decimals_of_a_score() -> None:
    assert Metric().difference(0.5, 90.0) == "0.50 points"
    assert Metric("dice", "").difference(0.012, 0.9) == "0.0120"
    assert Metric("error", "mm", higher_is_better=False).difference(3.2, -120.0) == "3.20 mm"


def test_latency_takes_the_factor_for_few_sessions_off_its_error() -> None:
    half_width = 1.96 * 0.01 * small_sample_factor(4, 0.95)
    ends = (math.exp(-half_width), math.exp(half_width))
    latency = Latency(1.0, ends, 1.0, ends, 1.0, 1.0, 1.0, 16, 100, 1.0, sessions=4)
    assert latency.sampling_error == pytest.approx(0.01)
    assert replace(latency, sessions=0).sampling_error == pytest.approx(half_width / 1.96)  # not known: taken for a normal interval
