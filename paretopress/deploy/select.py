"""Select a point of a front and export its bundle; the bytes that ship are the bytes that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paretopress.core.outcome import Metric, drop_between, missed
from paretopress.deploy.bundle import BundleFacts, write_bundle
from paretopress.errors import SearchFailedError
from paretopress.system.run_folder import RunFolder

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

    One that misses a bound of the budget is returned only where its trial is named.
    Raises: SearchFailedError: the front has no such point.
    """
    points: list[Mapping[str, Any]] = [point for point in front["points"] if not missed_bounds(point, front)]
    if latency_ms is not None:
        within = [point for point in points if point["latency_ci_ms"][1] <= latency_ms]
        if within:
            return max(within, key=lambda point: float(point["val_accuracy"]))
        fastest = f"; the fastest takes up to {min(p['latency_ci_ms'][1] for p in points):.3f} ms" if points else ""
        raise SearchFailedError(f"a point within {latency_ms} ms is needed, but the front has none{fastest}", "Name a higher bound.")
    shown: list[Mapping[str, Any]] = [*front["points"], *front.get("nearest", ())]
    for point in shown:
        if trial is not None and point["trial"] == trial:
            return point
    names = ", ".join(str(point["trial"]) for point in shown)
    if trial is None:
        hint = f"Name one that misses a bound by its trial: {names}." if shown else "No model was recovered."
        raise SearchFailedError("a point within every bound is needed, but the front has none", hint)
    raise SearchFailedError(f"the trial must be a point of the front, but got {trial}", f"Its trials are {names or 'none'}.")


def missed_bounds(point: Mapping[str, Any], front: Mapping[str, Any]) -> list[str]:
    """Return in words which bounds of the budget a point misses, by its own figures; [] if it is within all of them."""
    budget, metric = front["budget"], Metric(**front.get("metric", {}))
    found = missed(
        {
            "latency_ms": (point["latency_ci_ms"][1], budget["limit_ms"]),
            "size_bytes": (point["size_bytes"], budget["size_bytes"]),
            "max_drop": (drop_between(front["baseline"]["val_accuracy"], point["val_accuracy"]), budget["max_drop"]),
        }
    )
    return [miss.describe(metric) for miss in found]


def unsure_bounds(point: Mapping[str, Any], front: Mapping[str, Any]) -> list[str]:
    """Return in words which bounds a point meets by its figures, and its intervals do not: few validation items tell little."""
    limit, interval = front["budget"]["max_drop"], point.get("val_drop_ci")
    drop = drop_between(front["baseline"]["val_accuracy"], point["val_accuracy"])
    if limit is None or interval is None or not drop <= limit < interval[1]:
        return []
    lost = Metric(**front.get("metric", {})).difference(interval[1], front["baseline"]["val_accuracy"])
    return [f"on other data of the kind it may lose {lost} (95 % interval of the validation data), and {limit:g} are allowed"]


def export_point(folder: RunFolder, front: Mapping[str, Any], to: Path, *, trial: int | None, latency_ms: float | None) -> Path:
    """Write the bundle of a point, by default of the best one, and return its folder; it is verified before it takes its name.

    The manifest says whether the point is within every bound of the budget, intervals and all, which it misses, and which are unsure.
    Raises: SearchFailedError: there is no such point, or its very file was not measured yet. BundleError: the run's file is not the one of
        the front, or the bundle fails.
    """
    point = select_point(front, trial=front["best"] if trial is None else trial, latency_ms=latency_ms)
    if point.get("latency_alike"):
        raise SearchFailedError(
            f"a file that ships must have been measured itself, but of trial {point['trial']} one with the same operators was",
            "Let the run go on: it measures the files of its front after each trial.",
        )
    misses, unsure = missed_bounds(point, front), unsure_bounds(point, front)
    state = folder.read(folder.state)
    threads = int(front["environment"]["threads"])
    conditions = dict(front["environment"]) | {
        "batch": front["environment"].get("session", {}).get("batch", 1),
        "latency_scale": front["latency_scale"],
        "baseline": {name: front["baseline"][name] for name in _MEASURED},
        "budget": front["budget"],
        "within_budget": not misses and not unsure,
        "missed_bounds": misses,
        "unsure_bounds": unsure,
        "data": front["data"],
    }
    facts = BundleFacts(
        title=f"{folder.root.name}, trial {point['trial']}"
        + (", outside the budget" if misses else ", perhaps outside the budget" if unsure else ""),
        classes=tuple(state["classes"]),
        preprocessing=state["preprocessing"],
        measurements={name: point[name] for name in _MEASURED},
        conditions=conditions,
        plan=point["plan"],
        session_options={"intra_op_num_threads": threads, "inter_op_num_threads": 1},
        detection=state.get("detection", {}),
        independent_labels=bool(state.get("independent_labels", False)),
    )
    with np.load(folder.samples, allow_pickle=False) as kept:
        samples = dict(kept)
    return write_bundle(to, onnx=folder.model_file(point["onnx"]["path"]), sha256=point["onnx"]["sha256"], facts=facts, samples=samples)
