from __future__ import annotations

import math

import numpy as np
import pytest

from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch, TensorSpec
from paretopress.core.plan import Plan
from paretopress.search.samplers import surrogate
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.surrogate import Observation, Surrogate, width_switches
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("stem", "a.conv1", "a.conv2", "head")
LAYERS = tuple(Layer(name, LayerKind.CONV, 32, 32, (3, 3), (1, 1), 1, 1_000_000, 9_216, (32, 8, 8)) for name in NAMES)
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    LAYERS,
    (ChannelGroup("stem", 32, ("stem",)), ChannelGroup("a.conv1", 32, ("a.conv1",), ("a.conv2",))),
    (ResidualBranch("a.conv1", "add_a", 0, ("a.conv1", "a.conv2"), ("a.conv1",)),),
    tuple(BitGroup(name, (name,), (32, 8)) for name in NAMES),
    (),
)
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=16))
DAMAGES = {"prune/stem": {0.5: 0.5}, "prune/a.conv1": {0.5: 0.1, 1.0: 0.02}} | {f"bits/{name}": {8: 0.001} for name in NAMES}
KNOWN = PriorKnowledge(Predictor(SPACE, CostTables({name: {32: 1.0, 8: 0.5} for name in NAMES}, {32: 0.0}, 0.1, DAMAGES)), 3.0, 90.0)


def seen(plan: Plan, latency_ms: float, drop: float | None, *, feasible: bool = True) -> Observation:
    return Observation(plan, latency_ms, drop, feasible and drop is not None and latency_ms <= 3.0)


def test_width_switches_counts_changes_between_the_layers_that_are_left() -> None:
    assert width_switches(SPACE, Plan()) == 0
    assert width_switches(SPACE, Plan(bits={"a.conv1": 8})) == 2
    assert width_switches(SPACE, Plan(kept={"a.conv1": 0}, bits={"head": 8})) == 1
    assert width_switches(SPACE, Plan(bits=dict.fromkeys(NAMES, 8))) == 0


def test_promises_follow_the_tables_when_trials_say_nothing() -> None:
    # both trials leave widths alone; of two proposals of equal predicted latency the tables expect less damage of the one in a.conv1
    trials = [seen(Plan(), 4.0, 0.0), seen(Plan(bits=dict.fromkeys(NAMES, 8)), 2.0, 1.0)]
    harmless, harmful = Surrogate(SPACE, KNOWN).expected_improvement([Plan(kept={"a.conv1": 16}), Plan(kept={"stem": 16})], trials)
    assert harmless > harmful


def test_promises_follow_the_trials_when_they_contradict_the_tables() -> None:
    removed, int8 = {"a.conv1": 0}, {"stem": 8, "head": 8}
    liked = [seen(Plan(bits={"stem": 8}), 2.9, 1.0), seen(Plan(bits={"head": 8}), 2.9, 1.0), seen(Plan(bits=int8), 2.8, 1.1)]
    # the tables say that removal costs little; in these trials it costs nine points
    hurt = [seen(Plan(kept=removed, bits=bits), 1.5, 9.0 + i / 10) for i, bits in enumerate(({}, {"stem": 8}, {"head": 8}, int8))]
    plain, cut = Plan(bits={**int8, "a.conv1": 8}), Plan(kept={"a.conv1": 0, "stem": 16}, bits=int8)
    promises = Surrogate(SPACE, KNOWN).expected_improvement([plain, cut], [*liked, *hurt])
    assert promises[0] > promises[1]


def test_promises_are_negative_when_nothing_is_gained() -> None:
    # a plan that was seen, predicted where it was: at best it adds next to nothing, and one over the limit less
    trials = [seen(Plan(), 4.0, None), seen(Plan(bits=dict.fromkeys(NAMES, 8)), 2.0, 0.0), seen(Plan(bits={"stem": 8}), 3.9, None)]
    slow = Surrogate(SPACE, KNOWN).expected_improvement([Plan(bits={"head": 8})], trials)
    assert slow[0] < 0.0


def test_promises_learn_latency_from_plans_that_were_not_trained() -> None:
    trained = [seen(Plan(), 2.9, 0.0), seen(Plan(bits={"stem": 8}), 2.8, 1.0)]
    rejected = [Observation(Plan(bits={"head": 8}), 2.9 * math.e**2, None, False)]
    proposals = [Plan(bits={"head": 8, "stem": 8}), Plan(bits={"a.conv2": 8, "stem": 8})]
    slow, quick = Surrogate(SPACE, None).expected_improvement(proposals, [*trained, *rejected])
    assert slow < quick


@pytest.mark.parametrize("known", [None, KNOWN])
def test_promises_are_the_same_when_asked_again(known: PriorKnowledge | None) -> None:
    trials = [seen(Plan(), 2.9, 0.0), seen(Plan(bits={"stem": 8}), 2.8, 1.0)]
    screen = Surrogate(SPACE, known)
    proposals = [Plan(bits={"head": 8}), Plan(kept={"a.conv1": 0})]
    assert np.array_equal(screen.expected_improvement(proposals, trials), screen.expected_improvement(proposals, trials))


def test_promises_do_not_pile_up_what_was_only_proposed() -> None:
    trials = [seen(Plan(), 2.9, 0.0), seen(Plan(bits={"stem": 8}), 2.8, 1.0)]
    screen = Surrogate(SPACE, KNOWN)
    for channels in (0, 16):
        screen.expected_improvement([Plan(kept={"a.conv1": channels}, bits={name: 8}) for name in NAMES], trials)
    assert set(screen._features) == {s.plan for s in trials}
    assert len(screen._proposed) == len(NAMES)


def test_promises_are_learnt_from_the_newest_trials_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "_MOST_FITTED", 3)
    # the old ones say that int8 in the head ruins a model, and that its removal costs nothing
    old = [Observation(Plan(bits={"head": 8}), 2.9, 30.0 + i, False) for i in range(3)] + [
        Observation(Plan(kept={"a.conv1": 0}), 9.0, None, False)
    ]
    new = [seen(Plan(bits={"head": 8}), 2.0, 0.5), seen(Plan(bits={"stem": 8}), 2.5, 0.6), seen(Plan(bits={"a.conv2": 8}), 2.6, 0.4)]
    proposals = [Plan(bits={"head": 8, "stem": 8}), Plan(kept={"a.conv1": 0}, bits={"head": 8})]
    taught = Surrogate(SPACE, KNOWN)
    assert np.array_equal(
        taught.expected_improvement(proposals, [*old, *new]), Surrogate(SPACE, KNOWN).expected_improvement(proposals, new)
    )
    assert set(taught._features) == {s.plan for s in new}


def test_a_point_of_the_front_counts_however_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "_MOST_FITTED", 3)
    new = [seen(Plan(bits={"head": 8}), 2.0, 0.5), seen(Plan(bits={"stem": 8}), 2.5, 0.6), seen(Plan(bits={"a.conv2": 8}), 2.6, 0.4)]
    best = seen(Plan(bits=dict.fromkeys(NAMES, 8)), 0.1, 0.0)
    proposals = [Plan(kept={"a.conv1": 0}, bits={"head": 8, "stem": 8})]
    (alone,), (behind,) = (Surrogate(SPACE, KNOWN).expected_improvement(proposals, trials) for trials in (new, [best, *new]))
    assert behind == alone - 1.0 < 0.0  # one more that is ahead of it
