"""Plans go through JSON and Optuna's parameters and come back, whatever is frozen; compression keeps what it must and costs no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.factorise import factorise
from paretopress.core.model_graph import BitGroup, ChannelGroup, Layer, LayerKind, ModelGraph, ResidualBranch, TensorSpec
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError
from paretopress.evaluators.macs import count_macs
from paretopress.intake.trace import Intake, take_in
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace, SpaceOptions

NAMES = ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "fc")
GRAPH = ModelGraph(
    (TensorSpec("input", (3, 8, 8)),),
    (TensorSpec("output", (10,)),),
    tuple(Layer(n, LayerKind.CONV, 48, 48, (3, 3), (1, 1), 1, 1_000, 1_000, (48, 8, 8)) for n in NAMES),
    tuple(ChannelGroup(n, 48, (n,)) for n in ("stem", "a.conv1", "b.conv1")),
    tuple(ResidualBranch(f"{x}.conv1", f"add_{x}", 1, (f"{x}.conv1", f"{x}.conv2"), (f"{x}.conv1",)) for x in "ab"),
    tuple(BitGroup(n, (n,), (32, 8, 4) if n == "fc" else (32, 8)) for n in NAMES),
    (),
)
SPACE = SearchSpace(GRAPH, SpaceOptions(channel_step=16))
SETS = st.frozensets(st.sampled_from(Knob)).filter(lambda frozen: not {Knob.PRUNE, Knob.BITS, Knob.RANK, Knob.BRANCHES} <= frozen)
TurnedKnobs = Callable[[Plan], set[Knob]]


class Coupled(nn.Module):
    """Two identity blocks on a stem of 8 channels, without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.a1, self.a2 = nn.Conv2d(8, 12, 3, 1, 1), nn.Conv2d(12, 8, 3, 1, 1)
        self.b1, self.b2 = nn.Conv2d(8, 12, 3, 1, 1), nn.Conv2d(12, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.a2(torch.relu(self.a1(x))))
        x = torch.relu(x + self.b2(torch.relu(self.b1(x))))
        return self.fc(x.mean((2, 3)))


@cache
def coupled() -> Intake:
    return take_in(Coupled().eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


@st.composite
def params(draw: st.DrawFn) -> dict[str, object]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {variable.name: variable.sample(rng) for variable in SPACE.variables}


@given(params())
def test_plan_survives_json_and_params_when_drawn_from_the_space(drawn: dict[str, object]) -> None:
    plan = SPACE.plan(drawn)  # type: ignore[arg-type]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert SPACE.plan(SPACE.params(plan)) == plan
    assert Plan.from_json(plan.to_json()).digest() == plan.digest()


def any_plan(space: SearchSpace, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    return space.plan({variable.name: variable.sample(rng) for variable in space.variables})


@given(SETS, st.integers(0, 2**32 - 1))
def test_plan_survives_params_when_drawn_from_a_frozen_space(turned_knobs: TurnedKnobs, frozen: frozenset[Knob], seed: int) -> None:
    space = SearchSpace(GRAPH, SpaceOptions(channel_step=16, frozen=frozen))
    plan = any_plan(space, seed)
    assert space.plan(space.params(plan)) == plan
    assert SPACE.plan(SPACE.params(plan)) == plan  # a frozen space is a part of the free one
    assert not turned_knobs(plan) & frozen


@given(SETS, st.integers(0, 2**32 - 1))
def test_params_raises_when_a_plan_turns_a_frozen_knob(turned_knobs: TurnedKnobs, frozen: frozenset[Knob], seed: int) -> None:
    plan = any_plan(SPACE, seed)
    assume(turned_knobs(plan) & frozen)
    with pytest.raises(ConfigError):
        SearchSpace(GRAPH, SpaceOptions(channel_step=16, frozen=frozen)).params(plan)


@given(params(), st.integers(0, 1_000))
def test_neighbour_stays_in_the_distribution_when_any_value_moves(drawn: dict[str, object], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for variable in SPACE.variables:
        moved = variable.neighbour(drawn[variable.name], rng)  # type: ignore[arg-type]
        distribution = variable.distribution()
        if isinstance(distribution, CategoricalDistribution):
            assert moved in distribution.choices
            assert moved != drawn[variable.name]
        else:
            assert isinstance(distribution, FloatDistribution)
            assert distribution.low <= float(moved or 0.0) <= distribution.high


@given(params())
def test_plan_names_nothing_inside_a_removed_branch_when_drawn(drawn: dict[str, object]) -> None:
    plan = SPACE.plan(drawn)  # type: ignore[arg-type]
    for branch in GRAPH.branches:
        if plan.kept.get(branch.group) == 0:
            assert not set(branch.layers) & (set(plan.rank) | set(plan.bits))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]), st.integers(1, 2), st.booleans())
@settings(max_examples=40, deadline=None)
def test_factorise_is_the_identity_when_the_rank_is_full(out: int, inputs: int, kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(out * 100 + inputs)
    layer = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, bias=bias)
    x = torch.randn(2, inputs, 7, 7)
    factors = factorise(layer, min(out, inputs * kernel * kernel))
    torch.testing.assert_close(factors(x), layer(x), rtol=1e-3, atol=1e-4)


@given(st.fixed_dictionaries({"stem": st.integers(1, 8), "a1": st.integers(0, 12), "b1": st.integers(0, 12)}))
@settings(max_examples=25, deadline=None)
def test_compress_module_keeps_coupled_groups_equal_when_pruned(kept: dict[str, int]) -> None:
    intake = coupled()
    module = compress_module(intake.module, intake.graph, Plan(kept=kept)).module
    layers = dict(module.named_modules())
    stream = [layers[name].out_channels for name in ("stem", "a2", "b2") if name in layers]
    assert set(stream) == {kept["stem"]}
    for name in ("a1", "b1"):
        assert (name in layers) == (kept[name] > 0)
    fewer = {name: max(keep - 1, 0 if name != "stem" else 1) for name, keep in kept.items()}
    less = compress_module(intake.module, intake.graph, Plan(kept=fewer)).module
    assert (
        count_macs(less, torch.zeros(1, 3, 8, 8)).macs
        <= count_macs(module, torch.zeros(1, 3, 8, 8)).macs
        <= count_macs(intake.module, torch.zeros(1, 3, 8, 8)).macs
    )
