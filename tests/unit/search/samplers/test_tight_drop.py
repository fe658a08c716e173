"""A bound on the drop that no short training meets: the sampler looks for plans that lose little at the budget, not for faster ones."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, TensorSpec
from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds
from paretopress.search.limits import Limits
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.samplers.tables import CostTables
from paretopress.search.study.search import Search
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = tuple(f"layer{i}" for i in range(16))
LAYERS = tuple(Layer(name, LayerKind.CONV, 64, 64, (3, 3), (1, 1), 1, 1_000_000, 9_216, (64, 8, 8)) for name in NAMES)
GROUPS = tuple(ChannelGroup(name, 64, (name,), (reader,)) for name, reader in itertools.pairwise(NAMES))
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),), (TensorSpec("output", (10,)),), LAYERS, GROUPS, (),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES), (),
)  # fmt: skip
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8, frozen=frozenset({Knob.RANK})))
# what a layer's channels are worth differs, and the tables know it in part
WORTH = np.random.default_rng(0).lognormal(0.0, 1.0, len(NAMES))
DAMAGES = {f"prune/{name}": {0.25: 0.05, 0.5: 0.2, 0.75: 0.8} for name in NAMES} | {f"bits/{name}": {8: 0.02} for name in NAMES}
TABLES = CostTables({name: {32: 1.0, 8: 0.4} for name in NAMES}, {32: 0.0}, 0.02, DAMAGES)
BASELINE_MS, TRIALS = 16.0, 80
BOUNDS = Bounds(Budget(speedup=5.0, max_drop=1.0), BASELINE_MS, 90.0)


def evaluated(plan: Plan, rung: Rung, number: int) -> Outcome:
    shares = [plan.kept.get(name, 64) / 64 for name in NAMES]
    macs = [share * before for share, before in zip(shares, [1.0, *shares], strict=False)]
    ms = sum(0.02 + 0.98 * part * (0.4 if name in plan.bits else 1.0) for name, part in zip(NAMES, macs, strict=True))
    lost = 2.0 + sum(worth * (1.0 - share) ** 2 for worth, share in zip(WORTH, shares, strict=True)) + 0.05 * len(plan.bits)
    latency = Latency(ms, (ms, 1.02 * ms), ms / BASELINE_MS, (ms / BASELINE_MS,) * 2, ms, ms, BASELINE_MS, 8, 100, 0.1)
    rejected = "over the budget" if 1.02 * ms > BOUNDS.limit_ms else ""
    return Outcome(Rung.COSTS if rejected else rung, 90.0 - lost, 100, 10, latency, 1_000, "model.onnx", f"{number:064d}", rejected)


def least_drop(seed: int, max_drop: float | None) -> float:
    """Return the least drop of a plan within the budget that a search finds, which tells its sampler the bound on the drop or not."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = PriorKnowledge(Predictor(SPACE, TABLES), BOUNDS.limit_ms, 90.0, 10.0, max_drop)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler("guided", SPACE, seed, known))
    search = Search(study, SPACE, evaluated, BOUNDS, Limits(trials=TRIALS, finalists=0, stop_early=False), 1_000)
    search.run([Plan(), Plan(bits=dict.fromkeys(NAMES, 8)), Plan(dict.fromkeys(NAMES[:-1], 32), {}, dict.fromkeys(NAMES, 8))])
    return min(90.0 - c.outcome.val_accuracy for c in search.candidates() if not c.outcome.rejected)


def test_search_finds_plans_that_lose_less_when_all_lose_too_much() -> None:
    told, untold = (np.mean([least_drop(seed, max_drop) for seed in range(4)]) for max_drop in (1.0, None))
    assert told < untold - 0.02


@pytest.mark.parametrize("seed", range(2))
def test_search_proposes_the_same_when_a_plan_loses_little_enough(seed: int) -> None:
    assert least_drop(seed, 9.0) == least_drop(seed, None)
