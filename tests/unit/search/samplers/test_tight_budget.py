"""A budget that hardly any plan meets: the sampler finds those that do from the latencies of those that do not."""

from __future__ import annotations

import itertools

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
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    LAYERS,
    tuple(ChannelGroup(name, 64, (name,), (reader,)) for name, reader in itertools.pairwise(NAMES)),
    (),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES),
    (),
)
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=8, frozen=frozenset({Knob.RANK})))
DAMAGES = {f"prune/{name}": {0.25: 0.05, 0.5: 0.2, 0.75: 0.8} for name in NAMES} | {f"bits/{name}": {8: 0.02} for name in NAMES}
TABLES = CostTables({name: {32: 1.0, 8: 0.4} for name in NAMES}, {32: 0.0}, 0.02, DAMAGES)
BASELINE_MS, SPEEDUP, TRIALS = 16.0, 8.0, 80
BOUNDS = Bounds(Budget(speedup=SPEEDUP), BASELINE_MS, 90.0)


def evaluated(plan: Plan, rung: Rung, number: int) -> Outcome:
    """A layer takes its share of multiply-adds, two fifths of it in int8, and 40 microseconds that the tables know nothing of."""
    shares = [plan.kept.get(name, 64) / 64 for name in NAMES]
    macs = [share * before for share, before in zip(shares, [1.0, *shares], strict=False)]
    ms = sum(0.04 + 0.96 * part * (0.4 if name in plan.bits else 1.0) for name, part in zip(NAMES, macs, strict=True))
    lost = sum(2.0 * (1.0 - share) ** 2 for share in shares) + 0.1 * len(plan.bits)
    latency = Latency(ms, (ms, 1.01 * ms), ms / BASELINE_MS, (ms / BASELINE_MS,) * 2, ms, ms, BASELINE_MS, 8, 100, 0.1)
    rejected = "over the budget" if 1.01 * ms > BOUNDS.limit_ms else ""
    reached = Rung.COSTS if rejected else rung
    return Outcome(reached, 90.0 - lost, 100, 10, latency, 1_000, "model.onnx", f"{number:064d}", rejected)


@pytest.mark.parametrize("seed", range(3))
def test_search_trains_plans_within_a_budget_that_hardly_any_meets(seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = PriorKnowledge(Predictor(SPACE, TABLES), BOUNDS.limit_ms, 90.0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler("guided", SPACE, seed, known))
    search = Search(study, SPACE, evaluated, BOUNDS, Limits(trials=TRIALS, finalists=0, stop_early=False), 1_000)
    search.run([Plan(), Plan(bits=dict.fromkeys(NAMES, 8))])
    counts = search.counts()
    assert counts.all == TRIALS
    assert counts.completed >= TRIALS // 3
