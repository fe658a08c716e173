"""Torchvision models with random weights: trace, a 5-trial search without training, export, verify.

    python benchmarks/coverage.py [MODEL ...]

Shows structure, parity and latency; with random weights there is no accuracy to speak of. About 5 minutes for the three on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from results_file import Headline, write_result

from paretopress.api import start_run
from paretopress.config import parse_config
from paretopress.deploy.verify import verify_bundle
from paretopress.errors import ParetopressError
from paretopress.report.live import SilentReporter
from paretopress.run_parts import load_and_trace

MODELS = ("resnet18", "vgg16_bn", "mobilenet_v2")
HERE = Path(__file__).resolve().parent


def cover(name: str, folder: Path) -> dict[str, object]:
    """Return what a short search found in one model, or the error that stopped it."""
    started = time.monotonic()
    config = parse_config(
        {
            "model": f"torchvision:{name}?num_classes=10",
            "data": "random_images.py:data",
            "base": str(HERE),
            "budget": {"speedup": 1.02},
            "time": {"trials": 5, "finalists": 0},
            "recovery": {"short_steps": 0, "final_steps": 0, "calibration_batches": 1, "batch_size": 16},
            "disk": {"cache_mb": 0},
        },
        name,
    )
    try:
        intake, _ = load_and_trace(config)
        graph = intake.graph
        row: dict[str, object] = {
            "model": name,
            "layers": len(graph.layers),
            "channel_groups": len(graph.channel_groups),
            "branches": len(graph.branches),
            "bit_groups": len(graph.bit_groups),
            "frozen": [f"{item.name}: {item.reason}" for item in graph.frozen],
        }
        result = start_run(config, folder / name, SilentReporter())
        checked = verify_bundle(result.export(folder / f"{name}-bundle"))
    except ParetopressError as error:
        return {"model": name, "error": str(error), "duration_s": round(time.monotonic() - started, 1)}
    points = result.front["points"]
    return row | {
        "trials": result.front["trials"],
        "front": len(points),
        "fastest_vs_baseline": min(point["latency_vs_baseline"] for point in points),
        "baseline_ms": result.front["baseline"]["latency_ms"],
        "bundle_sha256": checked.sha256,
        "selfcheck_difference": checked.max_difference,
        "duration_s": round(time.monotonic() - started, 1),
    }


def main() -> None:
    names = sys.argv[1:] or list(MODELS)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        rows = []
        for name in names:
            rows.append(cover(name, Path(folder)))
            print(rows[-1], flush=True)
    verified = sum("error" not in row for row in rows)
    write_result(
        "coverage",
        [Headline("models from trace to a verified bundle", verified, f"of {len(rows)}", len(rows), verified == len(rows))],
        rows,
        weights="random",
    )


if __name__ == "__main__":
    main()
