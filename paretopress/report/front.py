"""front.json (schema 1): what a search found, with what it takes to trace each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from paretopress.core.outcome import DISTURBED_CORES, Outcome
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.early_stopping import Stall
from paretopress.search.fidelity.promotion import Agreement
from paretopress.search.storage.records import Counts

FRONT_SCHEMA = 1


def point_json(candidate: Candidate, bounds: Bounds) -> dict[str, Any]:
    """Return the object of a candidate: its figures, whether it is `within` every bound, and which it `misses`, with both figures."""
    missed = bounds.misses(candidate.outcome)
    return _figures_json(candidate.number, candidate.plan, candidate.outcome) | {
        "within": not missed and not candidate.outcome.rejected,
        "misses": [asdict(miss) | {"said": miss.describe(bounds.metric)} for miss in missed],
    }


def baseline_json(outcome: Outcome) -> dict[str, Any]:
    """Return the object of the unchanged model."""
    return _figures_json(None, Plan(), outcome)


def _figures_json(trial: int | None, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    latency = outcome.latency
    return {
        "trial": trial,
        "plan": plan.to_json(),
        "rung": int(outcome.rung),
        "val_accuracy": outcome.val_accuracy,
        "test_accuracy": outcome.test_accuracy,
        "macs": outcome.macs,
        "uncounted_operators": list(outcome.uncounted),
        "params": outcome.params,
        "latency_ms": latency.latency_ms,
        "latency_ci_ms": list(latency.latency_ci_ms),
        "latency_vs_baseline": latency.ratio,
        "latency_vs_baseline_ci": list(latency.ratio_ci),
        "latency_raw_p50_ms": latency.raw_p50_ms,
        "latency_raw_p90_ms": latency.raw_p90_ms,
        "latency_occasions": latency.occasions,
        "latency_foreign_cores": latency.foreign_cores,
        "size_bytes": outcome.size_bytes,
        "onnx": {"path": outcome.onnx_path, "sha256": outcome.onnx_sha256},
        "duration_s": round(sum(outcome.stages_s.values()), 3),
        "stages_s": {name: round(seconds, 3) for name, seconds in outcome.stages_s.items()},
        "notes": list(outcome.notes),
    }


def front_json(
    baseline: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    nearest: Sequence[Mapping[str, Any]],
    evaluated: Sequence[Candidate],
    bounds: Bounds,
    counts: Counts,
    *,
    agreements: Sequence[Agreement],
    stall: Stall | None,
    best: int | None,
    seed: int,
    environment: Mapping[str, Any],
    data: Mapping[str, int],
    elapsed_s: float,
    seconds: Mapping[str, float],
    lost: Mapping[int, str],
    cut: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the object of front.json; `latency_ms` of every point is on the scale on which the baseline takes its `latency_ms`.

    Args:
        points: within every bound. nearest: where there are none, those that miss the bounds by least, nearest first.
        lost: trial -> why its file could not be scored in the end, of those that would be shown.
    """
    budget = bounds.budget
    return {
        "schema": FRONT_SCHEMA,
        "metric": asdict(bounds.metric),
        "baseline": dict(baseline),
        "points": [dict(point) for point in points],
        "nearest": [dict(point) for point in nearest],
        "lost": [{"trial": trial, "reason": reason} for trial, reason in lost.items()],
        "best": best,
        "budget": {
            "latency_ms": budget.latency_ms,
            "speedup": budget.speedup,
            "max_drop": budget.max_drop,
            "size_bytes": budget.size_bytes,
            "limit_ms": bounds.limit_ms,
        },
        "latency_scale": "ratio to the baseline, measured in turns with it, times the baseline's p50 at the start of the run",
        "hypervolume": bounds.hypervolume([c for c in evaluated if bounds.feasible(c.outcome)]),
        "hypervolume_reference": {"latency_vs_baseline": 1.0, "drop": bounds.worst_drop},
        "evaluated": [
            {
                "trial": c.number,
                "latency_ms": c.outcome.latency.latency_ms,
                "val_accuracy": c.outcome.val_accuracy,
                "rung": int(c.outcome.rung),
            }
            for c in evaluated
            if not c.outcome.rejected
        ],
        "measurements": _measurements(evaluated),
        "environment": dict(environment),
        "data": dict(data),
        "trials": {
            "completed": counts.completed,
            "rejected_early": counts.rejected_early,
            "outraced": counts.outraced,
            "failed": counts.failed,
        },
        "rungs": [
            {"lower": int(a.lower), "higher": int(a.higher), "plans": a.plans, "rank_correlation": a.rank_correlation} for a in agreements
        ],
        "stopped_early": None if stall is None else asdict(stall) | {"said": stall.describe()},
        "seed": seed,
        "elapsed_s": round(elapsed_s, 1),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "setup_cut": list(cut),
    }


def _measurements(evaluated: Sequence[Candidate]) -> dict[str, Any]:
    """Return how many candidates were measured, and of how many others disturbed it or heat did."""
    latencies = [c.outcome.latency for c in evaluated]
    return {
        "candidates": len(latencies),
        "disturbed": sum((latency.foreign_cores or 0.0) > DISTURBED_CORES for latency in latencies),
        "disturbed_above_cores": DISTURBED_CORES,
        "throttled": sum(latency.throttled for latency in latencies),
    }
