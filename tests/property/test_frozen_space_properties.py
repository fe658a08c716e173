"""Whatever is frozen, plans and parameters go to each other and back, and no plan turns a frozen knob."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paretopress.errors import ConfigError
from paretopress.graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch
from paretopress.plan import Plan
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "fc")
GRAPH = ModelGraph(
    (3, 8, 8),
    (10,),
    tuple(Layer(n, LayerKind.CONV, 48, 48, (3, 3), (1, 1), 1, 1_000, 1_000, (48, 8, 8)) for n in NAMES),
    tuple(ChannelGroup(n, 48, (n,)) for n in ("stem", "a.conv1", "b.conv1")),
    tuple(ResidualBranch(f"{x}.conv1", f"add_{x}", 1, (f"{x}.conv1", f"{x}.conv2"), (f"{x}.conv1",)) for x in "ab"),
    tuple(BitGroup(n, (n,), (32, 8, 4) if n == "fc" else (32, 8)) for n in NAMES),
    (),
)
FREE = SearchSpace(GRAPH, SpaceOptions(channel_step=16))
SETS = st.frozensets(st.sampled_from(Knob)).filter(lambda frozen: not {Knob.PRUNE, Knob.BITS, Knob.RANK, Knob.BRANCHES} <= frozen)


def drawn(space: SearchSpace, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    return space.plan({variable.name: variable.sample(rng) for variable in space.variables})


def turned(plan: Plan) -> set[Knob]:
    """Return the knobs that a plan turns."""
    unchanged = Plan()
    found = {
        Knob.PRUNE: any(plan.kept.values()),
        Knob.BRANCHES: 0 in plan.kept.values(),
        Knob.BITS: bool(plan.bits),
        Knob.RANK: bool(plan.rank),
        Knob.DISTILLATION: (plan.temperature, plan.alpha) != (unchanged.temperature, unchanged.alpha),
    }
    return {knob for knob, is_turned in found.items() if is_turned}


@given(SETS, st.integers(0, 2**32 - 1))
def test_plan_survives_params_and_turns_no_frozen_knob_when_drawn_from_a_frozen_space(frozen: frozenset[Knob], seed: int) -> None:
    space = SearchSpace(GRAPH, SpaceOptions(channel_step=16, frozen=frozen))
    plan = drawn(space, seed)
    assert space.plan(space.params(plan)) == plan
    assert FREE.plan(FREE.params(plan)) == plan  # a frozen space is a part of the free one
    assert not turned(plan) & frozen


@given(SETS, st.integers(0, 2**32 - 1))
def test_params_raises_when_a_plan_turns_a_frozen_knob(frozen: frozenset[Knob], seed: int) -> None:
    plan = drawn(FREE, seed)
    assume(turned(plan) & frozen)
    with pytest.raises(ConfigError):
        SearchSpace(GRAPH, SpaceOptions(channel_step=16, frozen=frozen)).params(plan)
