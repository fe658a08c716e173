"""How often does the interval of one occasion contain what 20 occasions spread over a search agree on?

    python benchmarks/latency_coverage.py

Eight candidates of a ResNet-20 search are measured on 20 occasions each, with training between the occasions, as in a search. Compared are
the bootstrap interval of the occasion alone, and the interval that the search decides by: widened by the drift between occasions, here
as estimated from the other candidates. About 12 minutes on an otherwise idle machine.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from resnet20_candidates import make_candidates
from results_file import Headline, write_result

from paretopress.compress.apply import compress_module
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.recipe import Recipe
from paretopress.core.outcome import Latency
from paretopress.search.fidelity.latency_pooling import drift, pooled
from paretopress.system.allocator import keep_freed_memory

OCCASIONS, CANDIDATES, STEPS_BETWEEN = 20, 8, 25


def contained(latency: Latency, truth: float) -> bool:
    return latency.ratio_ci[0] <= truth <= latency.ratio_ci[1]


def main() -> None:
    keep_freed_memory()
    measured: list[list[Latency]] = [[] for _ in range(CANDIDATES)]
    with tempfile.TemporaryDirectory() as temporary:
        made = make_candidates(Path(temporary))
        recovery = Recovery(made.intake.module, made.data.train, Recipe(0.01))
        chosen = np.linspace(0, len(made.files) - 1, CANDIDATES).astype(int)
        rng = np.random.default_rng(0)
        for occasion in range(OCCASIONS):
            for index in rng.permutation(CANDIDATES):
                path = made.files[chosen[index]]
                measured[index].append(
                    made.pipeline.target.measure(path, made.baseline, baseline_ms=1.0, limit_ms=None, feed=made.pipeline.feed, rng=rng)
                )
            student = compress_module(made.intake.module, made.intake.graph, made.plans[occasion % len(made.plans)]).module
            recovery.run(student, temperature=4.0, alpha=0.9, steps=STEPS_BETWEEN, seed=occasion)
            print(f"occasion {occasion + 1} of {OCCASIONS}", flush=True)
    rows, alone, decided, two = [], [], [], []
    for index, latencies in enumerate(measured):
        truth = math.exp(float(np.median([math.log(latency.ratio) for latency in latencies])))
        between = drift(other for position, other in enumerate(measured) if position != index)
        alone += [contained(latency, truth) for latency in latencies]
        decided += [contained(pooled([latency], between), truth) for latency in latencies]
        two += [contained(pooled(pair, between), truth) for pair in zip(latencies[:10], latencies[10:], strict=True)]
        rows.append(
            {
                "plan": made.plans[chosen[index]].to_json(),
                "agreed_ratio": truth,
                "drift_of_the_others": between,
                "ratios": [latency.ratio for latency in latencies],
                "ratio_cis": [list(latency.ratio_ci) for latency in latencies],
                "foreign_cores": [latency.foreign_cores for latency in latencies],
                "duration_s": [latency.duration_s for latency in latencies],
            }
        )
    shares = {name: float(np.mean(hits)) for name, hits in (("alone", alone), ("decided", decided), ("two", two))}
    spread = math.sqrt(float(np.mean([np.var([math.log(latency.ratio) for latency in latencies], ddof=1) for latencies in measured])))
    headlines = [
        Headline(
            "one occasion's interval, as the search uses it, contains the agreed figure",
            round(100 * shares["decided"], 1),
            "%",
            80.0,
            shares["decided"] >= 0.8,
        ),
        Headline("the occasion's bootstrap interval alone contains it", round(100 * shares["alone"], 1), "%"),
        Headline("two occasions pooled contain it", round(100 * shares["two"], 1), "%"),
        Headline("standard deviation of a ratio between occasions", round(100 * spread, 2), "%"),
        Headline("drift between occasions, sampling taken off", round(100 * drift(measured), 2), "%"),
    ]
    write_result("latency_coverage", headlines, rows)


if __name__ == "__main__":
    main()
