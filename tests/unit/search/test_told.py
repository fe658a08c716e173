"""What a study is told of a trial is what the front goes by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest
from two_branches import BOUNDS, SPACE, outcome

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.fidelity.ladder import Evaluate
from paretopress.search.limits import Limits
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.storage.records import VOLUME
from paretopress.search.study.search import Search

# of the first trial's file the first occasion is a lucky one: 2 ms of 4
LUCKY_MS, TRUE_MS = 2.0, 4.0


def timed(ms: float) -> Latency:
    return outcome(90.0, ms).latency


def searched(evaluate: Evaluate, again: Callable[[Outcome], Latency], trials: int) -> Search:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler("random", SPACE, 0))
    limits = Limits(trials=trials, finalists=0)
    search = Search(study, SPACE, evaluate, BOUNDS, limits, 1_000, ladder=(Rung.SHORT,), measure_again=again)
    search.run(initial_plans(SPACE, ["a.conv1", "b.conv1"])[:trials])
    return search


def test_volumes_grow_with_later_trials_when_an_early_latency_was_lucky() -> None:
    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        found = outcome(89.0 + 0.1 * number, LUCKY_MS if number == 0 else TRUE_MS - 0.1 * number, rung=rung)
        return replace(found, onnx_sha256=f"{number:064}")

    search = searched(evaluate, lambda found: timed(TRUE_MS - 0.1 * int(found.onnx_sha256)), trials=8)
    told = [trial.user_attrs[VOLUME] for trial in search.study.trials]
    volumes = search.records.volumes(BOUNDS)
    assert len(volumes) == len(told) == 8
    assert max(told) == pytest.approx(told[0], rel=0.005)  # as the trials ended: nothing seems to come after the first
    assert volumes == sorted(volumes)
    assert volumes[-1] > 1.05 * volumes[0]
    candidates = search.short_candidates()
    assert volumes == pytest.approx([BOUNDS.hypervolume(candidates[: n + 1]) for n in range(8)])


def test_constraints_use_the_pooled_latency_of_a_file_measured_before() -> None:
    # both trials make the same file
    search = searched(lambda plan, rung, number: outcome(89.0, LUCKY_MS, rung=rung), lambda _: timed(TRUE_MS), trials=2)
    first, second = search.study.trials
    pooled_ms = math.sqrt(LUCKY_MS * TRUE_MS)  # of an occasion each
    assert first.values[2] == pytest.approx(LUCKY_MS)
    assert second.values[2] == pytest.approx(pooled_ms)
    assert second.constraints["latency_ms"] > pooled_ms / BOUNDS.limit_ms - 1.0
