"""A front.json object worked out by hand."""

from typing import Any

import pytest


def front_row(trial: int | None, latency_ms: float, val: float, test: float | None, plan: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose baseline takes 0.8 ms, with an interval of 5 % each way."""
    return {
        "trial": trial,
        "plan": {"schema": 1, "kept": {}, "rank": {}, "bits": {}, "temperature": 4.0, "alpha": 0.9} | plan,
        "rung": 3,
        "val_accuracy": val,
        "test_accuracy": test,
        "macs": round(latency_ms * 1e7),
        "params": 1_000,
        "latency_ms": latency_ms,
        "latency_ci_ms": [latency_ms * 0.95, latency_ms * 1.05],
        "latency_vs_baseline": latency_ms / 0.8,
        "size_bytes": round(latency_ms * 1e6),
        "onnx": {"path": "artifacts/a.onnx", "sha256": "0" * 64},
        "duration_s": 3.0,
    }


@pytest.fixture
def front() -> dict[str, Any]:
    """Return a baseline of 0.8 ms and three points, the slowest first; trial 7 is the best."""
    return {
        "schema": 1,
        "baseline": front_row(None, 0.8, 98.0, 97.5, {}),
        "points": [
            front_row(7, 0.4, 97.9, 97.6, {"bits": {"stem": 8, "layer1.0.conv1": 8}}),
            front_row(12, 0.25, 97.0, 96.25, {"kept": {"layer1.0.conv1": 0, "layer2.0.conv1": 48}}),
            front_row(31, 0.2, 95.0, 94.0, {"rank": {"fc": 8}}),
        ],
        "best": 7,
        "budget": {"latency_ms": None, "speedup": 1.9, "max_drop": None, "size_bytes": None, "limit_ms": 0.421},
        "environment": {"cpu": "Testor 3000", "threads": 1},
        "data": {"train": 100, "val": 50, "test": 50},
        "trials": {"completed": 20, "rejected_early": 11, "outraced": 4, "failed": 1},
        "seed": 0,
    }
