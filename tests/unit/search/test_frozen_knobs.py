"""A search in a space with a frozen knob: its seeds, what it proposes and what it solves for leave that knob alone."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch, TensorSpec
from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate
from paretopress.search.limits import Limits
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.samplers.tables import CostTables
from paretopress.search.study.search import Search
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "head")
ORDER = ["b.conv1", "a.conv1"]
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    tuple(Layer(name, LayerKind.CONV, 32, 32, (3, 3), (1, 1), 1, 1_000_000, 9_216, (32, 8, 8)) for name in NAMES),
    tuple(ChannelGroup(name, 32, (name,)) for name in ("stem", "a.conv1", "b.conv1")),
    tuple(ResidualBranch(f"{x}.conv1", f"add_{x}", 0, (f"{x}.conv1", f"{x}.conv2"), (f"{x}.conv1",)) for x in "ab"),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES),
    (),
)
BOUNDS = Bounds(Budget(speedup=1.25), 10.0, 90.0)


def space_without(*frozen: Knob) -> SearchSpace:
    return SearchSpace(GRAPH, SpaceOptions(channel_step=8, frozen=frozenset(frozen)))


def synthetic(plan: Plan, rung: Rung, number: int) -> Outcome:
    """Each layer costs 1.5 ms dense, 0.6 in int8, 1.2 factored; pruning and removal save in proportion; accuracy falls with all."""
    latency, accuracy = 1.0, 90.0 - 0.1 * abs(plan.temperature - 2.0) - abs(plan.alpha - 0.5)
    for name in NAMES:
        kept = plan.kept.get(name, plan.kept.get(name.replace("conv2", "conv1"), 32)) / 32
        int8, factored = name in plan.bits, name in plan.rank
        latency += kept * (0.6 if int8 else 1.5) * (0.8 if factored else 1.0)
        accuracy -= 2.0 * (1.0 - kept) ** 2 + (0.2 if int8 else 0.0) + (0.5 if factored else 0.0)
    ratio = latency / BOUNDS.baseline_ms
    measured = Latency(latency, (latency, latency), ratio, (ratio, ratio), latency, latency, BOUNDS.baseline_ms, 8, 100, 0.1)
    return Outcome(rung, accuracy, int(1e6 * latency), 10, measured, 1_000, "", str(number))


def searched(sampler: str, space: SearchSpace, trials: int) -> list[Candidate]:
    predictor = Predictor(space, tables())
    known = PriorKnowledge(predictor, BOUNDS.limit_ms, BOUNDS.baseline_accuracy)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler(sampler, space, 0, known))
    run = Search(study, space, synthetic, BOUNDS, Limits(trials=trials, finalists=0), 1_000)
    run.run([*initial_plans(space, ORDER), *ladder_plans(space, predictor, BOUNDS.limit_ms)])
    assert run.counts().all == trials
    return run.short_candidates()


def tables() -> CostTables:
    damages = {f"prune/{name}": {0.25: 0.1, 0.5: 0.2, 0.75: 0.4, 1.0: 0.3} for name in ("stem", "a.conv1", "b.conv1")}
    return CostTables({name: {32: 1.5, 8: 0.6} for name in NAMES}, {32: 1.0, 8: 1.0}, 0.1, damages)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("sampler", ["guided", "programme"])
@pytest.mark.parametrize("knob", Knob)
def test_run_turns_every_knob_but_the_frozen_one_when_a_knob_is_frozen(
    knob: Knob, sampler: str, turned_knobs: Callable[[Plan], set[Knob]]
) -> None:
    turned = set().union(*(turned_knobs(c.plan) for c in searched(sampler, space_without(knob), 45)))
    assert turned == set(Knob) - {knob}


def test_initial_plans_do_without_removals_when_branches_are_frozen() -> None:
    free, frozen = initial_plans(space_without(), ORDER), initial_plans(space_without(Knob.BRANCHES), ORDER)
    assert frozen == [plan for plan in free if 0 not in plan.kept.values()]


def test_initial_plans_are_projected_when_bits_are_frozen() -> None:
    # one and two branches removed, three uniform ratios, half and three quarters of the channels with one and two branches removed, and the
    # unchanged model
    plans = initial_plans(space_without(Knob.BITS), ORDER)
    assert len(plans) == 10
    assert Plan(kept={"b.conv1": 0}) in plans


def test_initial_plans_remove_some_branches_beside_light_pruning() -> None:
    space = space_without()
    light, int8 = space.uniform_kept(0.25), initial_plans(space, ORDER)[1].bits
    plans = initial_plans(space, ORDER)
    for removed in (ORDER[:1], ORDER):
        wanted = space.plan(space.params(Plan(kept=light | dict.fromkeys(removed, 0), bits=int8)))
        assert (wanted.kept, wanted.bits) in [(plan.kept, plan.bits) for plan in plans]


def test_initial_plans_keep_removals_in_int8_when_pruning_is_frozen() -> None:
    plans = initial_plans(space_without(Knob.PRUNE), ORDER)
    assert [dict(plan.kept) for plan in plans] == [{}, {}, {"b.conv1": 0}, {"a.conv1": 0, "b.conv1": 0}]


def test_ladder_plans_prune_nothing_when_pruning_is_frozen() -> None:
    space = space_without(Knob.PRUNE)
    plans = ladder_plans(space, Predictor(space, tables()), BOUNDS.limit_ms)
    assert plans
    assert {kept for plan in plans for kept in plan.kept.values()} <= {0}
    assert all(space.plan(space.params(plan)) == plan for plan in plans)
