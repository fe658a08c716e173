"""Twenty candidates of a ResNet-20 search, measured on two occasions with load in between: does their order stay?

    python benchmarks/latency_order.py

Beside the product's protocol stands a plain loop (10 runs to warm up, the median of 200), as most tools measure, on the same occasions.
A third occasion is measured while the load runs. About 3 minutes on an otherwise idle machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from resnet20_candidates import Candidates, make_candidates
from results_file import Headline, write_result
from scipy.stats import spearmanr

from paretopress.runtimes.onnx_runtime import open_session
from paretopress.runtimes.runtime import SessionSettings

LOAD_S, PLAIN_WARM_UP, PLAIN_RUNS = 20.0, 10, 200
BUSY = "import numpy as np\nx = np.random.default_rng(0).random((1200, 1200))\nwhile True: x = np.tanh(x @ x / 1200)"


def plain_loop_ms(path: Path, feed: dict[str, np.ndarray]) -> float:
    """Return the median of consecutive runs of one session, in milliseconds."""
    session = open_session(path, SessionSettings())
    times = []
    for _ in range(PLAIN_WARM_UP + PLAIN_RUNS):
        started = time.perf_counter_ns()
        session.run(None, feed)
        times.append(time.perf_counter_ns() - started)
    return float(np.median(times[PLAIN_WARM_UP:])) / 1e6


def occasion(made: Candidates, seed: int) -> list[dict[str, float]]:
    """Return the figures of all candidates, measured in a random order."""
    rng = np.random.default_rng(seed)
    found: dict[int, dict[str, float]] = {}
    for index in rng.permutation(len(made.files)):
        path = made.files[index]
        latency = made.pipeline.target.measure(path, made.baseline, baseline_ms=1.0, limit_ms=None, feed=made.pipeline.feed, rng=rng)
        found[int(index)] = {"ratio": latency.ratio, "half_width": (latency.ratio_ci[1] - latency.ratio_ci[0]) / 2.0}
        found[int(index)]["plain_ms"] = plain_loop_ms(path, made.pipeline.feed)
    return [found[index] for index in range(len(made.files))]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        made = make_candidates(Path(temporary))
        first = occasion(made, 1)
        busy = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            time.sleep(LOAD_S)
            loaded = occasion(made, 2)
        finally:
            busy.kill()
            busy.wait()
        second = occasion(made, 3)
    rows = [
        {"candidate": index, "plan": plan.to_json(), "first": a, "under_load": b, "second": c}
        for index, (plan, a, b, c) in enumerate(zip(made.plans, first, loaded, second, strict=True))
    ]

    def order(key: str, other: list[dict[str, float]]) -> float:
        return float(spearmanr([row[key] for row in first], [row[key] for row in other]).statistic)

    kept = order("ratio", second)
    headlines = [
        Headline("Spearman of the ratio to the reference, two occasions", round(kept, 4), "", 0.97, kept >= 0.97),
        Headline("Spearman of a plain loop, two occasions", round(order("plain_ms", second), 4), ""),
        Headline("Spearman of the ratio, idle against under load", round(order("ratio", loaded), 4), ""),
        Headline("Spearman of a plain loop, idle against under load", round(order("plain_ms", loaded), 4), ""),
    ]
    for name, key in (("the ratio", "ratio"), ("a plain loop", "plain_ms")):
        moved = float(np.median([abs(b[key] / a[key] - 1.0) for a, b in zip(first, second, strict=True)]))
        headlines.append(Headline(f"median change of {name} between the occasions", round(100 * moved, 2), "%"))
    write_result("latency_order", headlines, rows)


if __name__ == "__main__":
    main()
