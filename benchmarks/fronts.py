"""What the searches of runs/*.toml kept in runs/results found: the point that each would export, and the fastest within the bounds.

    python benchmarks/fronts.py

Reads runs/results/NAME_front.json, which a search wrote as front.json; latencies are each search's own. Writes results/fronts.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results_file import write_result

RUNS = Path(__file__).resolve().parent.parent / "runs"
NAMES = ("canvas_detector", "canvas_labels", "raccoon_detector", "imagenet300_unlabelled", "sst2_minilm_auroc")


def row_of(name: str, front: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a search."""
    baseline = front["baseline"]
    within = [point for point in front["points"] if point.get("within", True)]
    chosen = next((point for point in within if point["trial"] == front["best"]), None)
    fastest = min(within, key=lambda point: point["latency_ms"], default=None)
    nearest = None if within else next(iter(front.get("nearest") or front["points"]), None)
    return {
        "search": name,
        "metric": front["metric"]["name"],
        "minutes": round(front["elapsed_s"] / 60.0, 1),
        "trials": front["trials"] if isinstance(front["trials"], int) else front["trials"].get("completed"),
        "speedup_asked": front["budget"]["speedup"],
        "max_drop": front["budget"]["max_drop"],
        "baseline_ms": baseline["latency_ms"],
        "baseline_val": baseline["val_accuracy"],
        "baseline_test": baseline["test_accuracy"],
        "points_within": len(within),
        "chosen": figures(chosen, baseline),
        "fastest": figures(fastest, baseline),
        "nearest": figures(nearest, baseline),
    }


def figures(point: dict[str, Any] | None, baseline: dict[str, Any]) -> dict[str, float] | None:
    """Return how much faster a point is, and what it loses on validation and test data."""
    if point is None:
        return None
    return {
        "trial": point["trial"],
        "speedup": round(1.0 / point["latency_vs_baseline"], 2),
        "val_drop": round(baseline["val_accuracy"] - point["val_accuracy"], 2),
        "test_drop": round(baseline["test_accuracy"] - point["test_accuracy"], 2),
    }


def main() -> None:
    kept = {name: RUNS / "results" / f"{name}_front.json" for name in NAMES}
    write_result("fronts", [], [row_of(name, json.loads(path.read_text())) for name, path in kept.items() if path.is_file()])


if __name__ == "__main__":
    main()
