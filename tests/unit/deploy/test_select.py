"""A file ships only if it was measured itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopress.deploy.select import export_point
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
