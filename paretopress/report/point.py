"""A point of a front as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretopress.core.outcome import Rung
from paretopress.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Point:
    """One model of a finished run: what was done to it, and its measured figures.

    Attributes:
        trial: the number that `export` takes; None for the baseline.
        within: whether it meets every bound of the budget; `misses` says in words which it does not.
        latency_ms, latency_ci_ms: p50 of one batch with its 95 % interval, in milliseconds, on the scale of the baseline's.
        latency_vs_baseline: the ratio that was measured: below 1 is faster.
        val_accuracy, test_accuracy: scores of the exported file in the metric's unit; the search never saw test data.
        macs: multiply-adds, counted by fvcore. params: number of parameters. size_bytes: of the file.
        rung: how far it was fine-tuned. onnx_path: of its file, in the run's folder; onnx_sha256: that file's hash.
        figures: what further evaluators measured of the file, by their names.
    """

    trial: int | None
    plan: Plan
    within: bool
    misses: tuple[str, ...]
    latency_ms: float
    latency_ci_ms: tuple[float, float]
    latency_vs_baseline: float
    val_accuracy: float
    test_accuracy: float | None
    macs: int
    params: int
    size_bytes: int
    rung: Rung
    onnx_path: str
    onnx_sha256: str
    figures: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Point:
        """Return a point of front.json; the baseline, which says nothing of bounds, is within them."""
        low, high = value["latency_ci_ms"]
        return cls(
            trial=value["trial"],
            plan=Plan.from_json(value["plan"]),
            within=value.get("within", True),
            misses=tuple(miss["said"] for miss in value.get("misses", ())),
            latency_ms=value["latency_ms"],
            latency_ci_ms=(low, high),
            latency_vs_baseline=value["latency_vs_baseline"],
            val_accuracy=value["val_accuracy"],
            test_accuracy=value["test_accuracy"],
            macs=value["macs"],
            params=value["params"],
            size_bytes=value["size_bytes"],
            rung=Rung(value["rung"]),
            onnx_path=value["onnx"]["path"],
            onnx_sha256=value["onnx"]["sha256"],
            figures=value.get("figures", {}),
        )
