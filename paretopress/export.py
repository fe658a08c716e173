"""From a point of a front to its bundle; the bytes that ship are the bytes that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paretopress.deploy.bundle import BundleFacts, write_bundle
from paretopress.errors import BundleError, SearchFailedError
from paretopress.run_folder import RunFolder

_MEASURED = (
    "val_accuracy",
    "test_accuracy",
    "macs",
    "params",
    "latency_ms",
    "latency_ci_ms",
    "latency_vs_baseline",
    "latency_vs_baseline_ci",
    "latency_raw_p50_ms",
    "latency_raw_p90_ms",
    "size_bytes",
)


def select_point(front: Mapping[str, Any], *, trial: int | None = None, latency_ms: float | None = None) -> Mapping[str, Any]:
    """Return a point of a front: the most accurate on validation data whose whole interval is within `latency_ms`, else that of a trial.

    Raises: SearchFailedError: the front has no such point.
    """
    points: list[Mapping[str, Any]] = front["points"]
    if latency_ms is not None:
        within = [point for point in points if point["latency_ci_ms"][1] <= latency_ms]
        if within:
            return max(within, key=lambda point: float(point["val_accuracy"]))
        fastest = f"; the fastest takes up to {min(p['latency_ci_ms'][1] for p in points):.3f} ms" if points else ""
        raise SearchFailedError(f"a point within {latency_ms} ms is needed, but the front has none{fastest}", "Name a higher bound.")
    for point in points:
        if trial is not None and point["trial"] == trial:
            return point
    if not points:
        raise SearchFailedError("a point of the front is needed, but the front is empty", "No plan met the budget.")
    names = ", ".join(str(point["trial"]) for point in points)
    raise SearchFailedError(f"the trial must be a point of the front, but got {trial}", f"Its trials are {names}.")


def export_point(folder: RunFolder, front: Mapping[str, Any], to: Path, *, trial: int | None, latency_ms: float | None) -> Path:
    """Write the bundle of a point, by default of the best one, and return its folder; it is verified before it takes its name.

    Raises: SearchFailedError: there is no such point. BundleError: the run's file is not the measured one, or the bundle fails.
    """
    point = select_point(front, trial=front["best"] if trial is None else trial, latency_ms=latency_ms)
    limit_ms = front["budget"]["limit_ms"]
    if point["latency_ci_ms"][1] > limit_ms:
        raise BundleError(f"a bundle must be within the budget of {limit_ms:.3f} ms, but got up to {point['latency_ci_ms'][1]:.3f} ms")
    state = folder.read(folder.state)
    threads = int(front["environment"]["threads"])
    conditions = dict(front["environment"]) | {
        "batch": 1,
        "latency_scale": front["latency_scale"],
        "baseline": {name: front["baseline"][name] for name in _MEASURED},
        "budget": front["budget"],
        "data": front["data"],
    }
    facts = BundleFacts(
        title=f"{folder.root.name}, trial {point['trial']}",
        classes=tuple(state["classes"]),
        preprocessing=state["preprocessing"],
        measurements={name: point[name] for name in _MEASURED},
        conditions=conditions,
        plan=point["plan"],
        session_options={"intra_op_num_threads": threads, "inter_op_num_threads": 1},
    )
    with np.load(folder.samples, allow_pickle=False) as kept:
        samples = dict(kept)
    return write_bundle(to, onnx=folder.model_file(point["onnx"]["path"]), sha256=point["onnx"]["sha256"], facts=facts, samples=samples)
