"""front.json (schema 1): the result of a search, every figure traceable to a file, its hash and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paretopress.core.outcome import DISTURBED_CORES, Outcome, drop_interval
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.early_stopping import EarlyStop
from paretopress.search.fidelity.promotion import Agreement
from paretopress.search.storage.records import Counts
from paretopress.search.study.closing import FinalReport

FRONT_SCHEMA = 1


def point_json(candidate: Candidate, bounds: Bounds) -> dict[str, Any]:
    """Return the object of a candidate: its figures, whether it is `within` every bound, and which it `misses`, with both figures.

    `val_drop_ci` is the 95 % interval of its drop on validation data, paired item by item; None for a metric that is not scored so.
    """
    missed = bounds.misses(candidate.outcome)
    return _figures_json(candidate.number, candidate.plan, candidate.outcome) | {
        "val_drop_ci": drop_interval(bounds.drop(candidate.outcome), candidate.outcome.val_error),
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
        "latency_alike": latency.alike,
        "latency_foreign_cores": latency.foreign_cores,
        "size_bytes": outcome.size_bytes,
        "figures": dict(outcome.figures),
        "onnx": {"path": outcome.onnx_path, "sha256": outcome.onnx_sha256},
        "duration_s": round(sum(outcome.stages_s.values()), 3),
        "stages_s": {name: round(seconds, 3) for name, seconds in outcome.stages_s.items()},
        "notes": list(outcome.notes),
    }


@dataclass(frozen=True, slots=True)
class SearchFacts:
    """The course of a search: all `evaluated` candidates, how its trials ended, how its rungs agreed, and its time by stage.

    `elapsed_s` are seconds of the run; `seconds` those of each stage, which overlap where several workers ran.
    """

    evaluated: Sequence[Candidate]
    counts: Counts
    agreements: Sequence[Agreement]
    early_stop: EarlyStop | None
    elapsed_s: float
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The conditions of a run: seed, the target's environment, items of each split, and what its set-up left out for lack of time."""

    seed: int
    environment: Mapping[str, Any]
    data: Mapping[str, int]
    setup_cut: Sequence[str] = ()


def front_json(found: FinalReport, best: int | None, bounds: Bounds, search: SearchFacts, run: RunFacts) -> dict[str, Any]:
    """Return the object of front.json; `latency_ms` of every point is on the scale on which the baseline takes its `latency_ms`.

    Args:
        found: what is reported. best: the trial of the point to ship, None if no point is within every bound.
    """
    return {
        "schema": FRONT_SCHEMA,
        "metric": asdict(bounds.metric),
        "baseline": baseline_json(found.baseline),
        "points": [point_json(candidate, bounds) for candidate in found.points],
        "nearest": [point_json(candidate, bounds) for candidate in found.nearest],
        "lost": [{"trial": trial, "reason": reason} for trial, reason in found.lost.items()],
        "best": best,
        "budget": _budget_json(bounds),
        "latency_scale": "ratio to the baseline, measured in turns with it, times the baseline's p50 at the start of the run",
        "hypervolume": bounds.hypervolume([c for c in search.evaluated if bounds.feasible(c.outcome)]),
        "hypervolume_reference": {"latency_vs_baseline": 1.0, "drop": bounds.worst_drop},
        "evaluated": [_evaluated_json(candidate) for candidate in search.evaluated if not candidate.outcome.rejected],
        "measurements": _measurements(search.evaluated),
        "environment": dict(run.environment),
        "data": dict(run.data),
        "trials": asdict(search.counts),
        "rungs": [_agreement_json(agreement) for agreement in search.agreements],
        "stopped_early": None if search.early_stop is None else asdict(search.early_stop) | {"said": search.early_stop.describe()},
        "seed": run.seed,
        "elapsed_s": round(search.elapsed_s, 1),
        "seconds": {name: round(value, 1) for name, value in search.seconds.items()},
        "setup_cut": list(run.setup_cut),
    }


def _budget_json(bounds: Bounds) -> dict[str, Any]:
    return asdict(bounds.budget) | {"limit_ms": bounds.limit_ms}


def _evaluated_json(candidate: Candidate) -> dict[str, Any]:
    outcome = candidate.outcome
    return {
        "trial": candidate.number,
        "latency_ms": outcome.latency.latency_ms,
        "val_accuracy": outcome.val_accuracy,
        "rung": int(outcome.rung),
    }


def _agreement_json(agreement: Agreement) -> dict[str, Any]:
    return asdict(agreement) | {"lower": int(agreement.lower), "higher": int(agreement.higher)}


def _measurements(evaluated: Sequence[Candidate]) -> dict[str, Any]:
    """Return how many candidates were measured, and of how many others disturbed it or heat did."""
    latencies = [c.outcome.latency for c in evaluated]
    return {
        "candidates": len(latencies),
        "disturbed": sum((latency.foreign_cores or 0.0) > DISTURBED_CORES for latency in latencies),
        "disturbed_above_cores": DISTURBED_CORES,
        "throttled": sum(latency.throttled for latency in latencies),
    }
