from __future__ import annotations

from typing import Any

import pytest

from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.report.front import baseline_json, point_json
from paretopress.report.point import Point
from paretopress.search.candidates import Bounds, Candidate

PLAN = Plan(kept={"a": 8}, bits={"b": 8})


def outcome(**changed: Any) -> Outcome:
    latency = Latency(4.0, (3.9, 4.1), 0.4, (0.39, 0.41), 4.2, 4.5, 10.5, 8, 100, 1.0)
    figures = {"rung": Rung.FINAL, "val_accuracy": 89.5, "test_accuracy": 88.0, "macs": 100, "params": 10, "size_bytes": 1_000}
    file = {"onnx_path": "finalists/0003/model.onnx", "onnx_sha256": "ab"}
    return Outcome(**(figures | file | {"latency": latency, "figures": {"energy_mj": 2.5}} | changed))


def point(**changed: Any) -> Point:
    bounds = Bounds(Budget(speedup=2.0, max_drop=1.0), 10.0, 90.0)
    return Point.from_json(point_json(Candidate(3, PLAN, outcome(**changed)), bounds))


def test_from_json_reads_what_point_json_wrote() -> None:
    assert point() == Point(
        trial=3,
        plan=PLAN,
        within=True,
        misses=(),
        latency_ms=4.0,
        latency_ci_ms=(3.9, 4.1),
        latency_vs_baseline=0.4,
        val_accuracy=89.5,
        test_accuracy=88.0,
        macs=100,
        params=10,
        size_bytes=1_000,
        rung=Rung.FINAL,
        onnx_path="finalists/0003/model.onnx",
        onnx_sha256="ab",
        figures={"energy_mj": 2.5},
    )


def test_from_json_says_which_bounds_are_missed() -> None:
    missed = point(val_accuracy=88.0)
    assert not missed.within
    assert missed.misses == ("it loses 2 points, 1 more than the 1 allowed",)


def test_from_json_takes_a_baseline_and_a_point_of_an_earlier_version() -> None:
    value = baseline_json(outcome())
    del value["figures"]
    assert Point.from_json(value).trial is None
    assert Point.from_json(value).figures == {}


def test_point_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        point().trial = 4  # type: ignore[misc]
