"""One file measured against itself, 50 times: does the interval of the ratio contain 1, how wide is it, and what does it cost?

    python benchmarks/latency_aa.py

The files are the float and the int8 ResNet-20 of the CIFAR-10 benchmark. About 3 minutes on an idle machine.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from resnet20_candidates import make_candidates
from results_file import Headline, write_result

PAIRS = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = make_candidates(folder)
        rows = []
        for name, path in (("float", made.baseline), ("int8", made.files[0])):
            twin = folder / f"twin-{name}.onnx"
            shutil.copyfile(path, twin)
            for pair in range(PAIRS):
                latency = made.pipeline.target.measure(
                    twin, path, baseline_ms=1.0, limit_ms=None, feed=made.pipeline.feed, rng=np.random.default_rng(pair)
                )
                low, high = latency.ratio_ci
                rows.append(
                    {
                        "file": name,
                        "pair": pair,
                        "ratio": latency.ratio,
                        "ratio_ci": [low, high],
                        "contains_1": low <= 1.0 <= high,
                        "half_width": (high - low) / 2.0,
                        "raw_p50_ms": latency.raw_p50_ms,
                        "raw_p90_ms": latency.raw_p90_ms,
                        "blocks": latency.blocks,
                        "runs": latency.runs,
                        "duration_s": latency.duration_s,
                        "foreign_cores": latency.foreign_cores,
                    }
                )
    headlines = []
    for name in ("float", "int8"):
        own = [row for row in rows if row["file"] == name]
        contains = float(np.mean([row["contains_1"] for row in own]))
        width, seconds = (float(np.median([row[key] for row in own])) for key in ("half_width", "duration_s"))
        headlines += [
            Headline(f"intervals that contain 1, {name}", round(100 * contains, 1), "%", 90.0, contains >= 0.9),
            Headline(f"median half-width, {name}", round(100 * width, 2), "%", 3.0, width <= 0.03),
            Headline(f"median seconds per candidate, {name}", round(seconds, 2), "s", 2.0, seconds <= 2.0),
            Headline(f"largest error of a ratio, {name}", round(100 * max(abs(row["ratio"] - 1.0) for row in own), 2), "%"),
        ]
    write_result("latency_aa", headlines, rows)


if __name__ == "__main__":
    main()
