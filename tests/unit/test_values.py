from __future__ import annotations

import pytest

from paretopress.errors import BudgetError, ConfigError
from paretopress.measurement import Budget, Latency, Outcome, Rung
from paretopress.plan import Criterion, Plan


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
