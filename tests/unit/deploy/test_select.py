"""A file ships only if it was measured itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopress.deploy.select import export_point, unsure_bounds
from paretopress.errors import SearchFailedError
from paretopress.system.run_folder import RunFolder

POINT = {"trial": 4, "val_accuracy": 90.0, "latency_ci_ms": [0.9, 1.1], "size_bytes": 1_000, "latency_alike": True}
FRONT: dict[str, Any] = {
    "points": [POINT],
    "best": 4,
    "baseline": {"val_accuracy": 91.0},
    "budget": {"limit_ms": 2.0, "size_bytes": None, "max_drop": 2.0},
}


def test_export_refuses_a_file_that_was_not_measured_itself(tmp_path: Path) -> None:
    with pytest.raises(SearchFailedError, match="of trial 4 one with the same operators was"):
        export_point(RunFolder(tmp_path), FRONT, tmp_path / "bundle", trial=None, latency_ms=None)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("interval", "unsure"),
    [
        ([-0.4, 1.6], []),
        ([-1.0, 3.0], ["on other data of the kind it may lose 3.00 points (95 % interval of the validation data), and 2 are allowed"]),
    ],
    ids=["many items", "few"],
)
def test_unsure_bounds_are_those_that_an_interval_passes(interval: list[float], unsure: list[str]) -> None:
    assert unsure_bounds(POINT | {"val_drop_ci": interval}, FRONT) == unsure
    assert unsure_bounds(POINT | {"val_drop_ci": None}, FRONT) == []  # a metric that does not score single items
    assert unsure_bounds(POINT | {"val_accuracy": 88.0, "val_drop_ci": interval}, FRONT) == []  # it is outside: missed_bounds says so
