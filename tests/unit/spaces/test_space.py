from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor, nn

from paretopress.core.model_graph import Frozen, LayerKind, ModelGraph
from paretopress.core.plan import Criterion, Plan
from paretopress.errors import ConfigError
from paretopress.intake.trace import take_in
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import ALPHA, IMPORTANCE, TEMPERATURE, SearchSpace, SpaceOptions
from paretopress.spaces.variables import Choice, Range


@pytest.fixture
def graph(tiny: nn.Module, images: Tensor) -> ModelGraph:
    return take_in(tiny, images[:2]).graph


@pytest.fixture
def space(graph: ModelGraph) -> SearchSpace:
    return SearchSpace(graph, SpaceOptions(channel_step=4))


def values(space: SearchSpace, name: str) -> tuple[object, ...]:
    variable = next(v for v in space.variables if v.name == name)
    assert isinstance(variable, Choice)
    return variable.values


def test_search_space_offers_channel_steps_when_a_group_can_be_pruned(space: SearchSpace) -> None:
    assert values(space, "prune/block2.conv1") == (0.0, 0.25, 0.5, 0.75)
    assert values(space, "prune/stem") == (0.0, 0.5)


def test_search_space_offers_removal_when_the_skip_is_the_identity(space: SearchSpace) -> None:
    assert values(space, "prune/block1.conv1") == (0.0, 0.5, 1.0)


def test_search_space_offers_ranks_below_break_even_when_a_layer_is_large(space: SearchSpace) -> None:
    # block2.conv2 is 16 x 16*9: break-even 14 -> steps 12 and below, in fours
    assert values(space, "rank/block2.conv2") == (None, 12, 8, 4)


def test_search_space_leaves_out_what_the_target_cannot_run_when_told(graph: ModelGraph) -> None:
    names = {v.name for v in SearchSpace(graph, SpaceOptions(channel_step=4, bits=(32,))).variables}
    assert not any(name.startswith("bits/") for name in names)
    assert not any(name.startswith("prune/stem") for name in {v.name for v in SearchSpace(graph, SpaceOptions(channel_step=8)).variables})


def test_search_space_does_not_offer_the_classifiers_outputs_when_built(space: SearchSpace) -> None:
    assert "prune/fc" not in {v.name for v in space.variables}


def test_plan_drops_what_has_no_effect_when_a_branch_is_removed(space: SearchSpace) -> None:
    params = space.defaults() | {"prune/block1.conv1": 1.0, "bits/block1.conv1": 8, "rank/block1.conv2": 4, "bits/fc": 8}
    assert space.plan(params) == Plan(kept={"block1.conv1": 0}, bits={"fc": 8})


def test_params_is_the_inverse_of_plan_when_the_plan_is_in_the_space(space: SearchSpace) -> None:
    plan = Plan({"block2.conv1": 8, "stem": 4}, {"block2.conv2": 4}, {"block2.conv1": 8}, temperature=2.0, alpha=0.5)
    assert space.plan(space.params(plan)) == plan


@pytest.mark.parametrize(
    "change", [{"prune/stem": 0.3}, {"prune/nothing": 0.5}, {"bits/fc": 16}], ids=["off the grid", "unknown name", "unknown width"]
)
def test_plan_raises_when_the_parameters_are_not_of_the_space(space: SearchSpace, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        space.plan(space.defaults() | change)


def test_plan_raises_when_a_parameter_is_missing(space: SearchSpace) -> None:
    params = space.defaults()
    params.pop("prune/stem")
    with pytest.raises(ConfigError, match="missing"):
        space.plan(params)


def test_search_space_lists_what_it_leaves_out_when_all_layers_refuse(graph: ModelGraph) -> None:
    options = SpaceOptions(
        channel_step=4, refusal=lambda layer, bits: "too slow" if layer.kind is LayerKind.DEPTHWISE and bits == 8 else ""
    )
    space = SearchSpace(graph, options)
    assert space.left_out == (Frozen("depthwise in 8 bits", "too slow"),)
    assert "bits/depthwise" not in space.defaults()
    assert not any(space.offers(group, 8) for group in graph.bit_groups if group.name == "depthwise")
    assert values(space, "bits/fc") == (32, 8)


def test_search_space_offers_a_width_when_one_layer_of_the_group_gains(graph: ModelGraph) -> None:
    # block2.conv2 and block2.down feed one add
    space = SearchSpace(graph, SpaceOptions(refusal=lambda layer, bits: "too slow" if layer.kernel == (1, 1) else ""))
    assert values(space, "bits/block2.conv2") == (32, 8)
    assert space.left_out == (Frozen("fc in 8 bits", "too slow"),)


def test_search_space_lists_no_width_without_a_kernel(graph: ModelGraph) -> None:
    assert SearchSpace(graph, SpaceOptions(bits=(32,), refusal=lambda layer, bits: "too slow")).left_out == ()


def frozen_space(graph: ModelGraph, *frozen: Knob) -> SearchSpace:
    return SearchSpace(graph, SpaceOptions(channel_step=4, frozen=frozenset(frozen)))


@pytest.mark.parametrize(
    ("knob", "prefix"), [(Knob.BITS, "bits/"), (Knob.RANK, "rank/")], ids=lambda value: str(value) if isinstance(value, Knob) else ""
)
def test_search_space_has_all_variables_but_a_frozen_knobs_when_built(
    graph: ModelGraph, space: SearchSpace, knob: Knob, prefix: str
) -> None:
    frozen = frozen_space(graph, knob)
    assert any(name.startswith(prefix) for name in space.defaults())
    assert frozen.defaults() == {name: value for name, value in space.defaults().items() if not name.startswith(prefix)}


def test_search_space_offers_removal_alone_when_pruning_is_frozen(graph: ModelGraph) -> None:
    space = frozen_space(graph, Knob.PRUNE)
    assert [name for name in space.defaults() if name.startswith("prune/")] == ["prune/block1.conv1"]
    assert values(space, "prune/block1.conv1") == (0.0, 1.0)
    assert space.can_remove("block1.conv1")


def test_search_space_offers_steps_alone_when_branches_are_frozen(graph: ModelGraph) -> None:
    space = frozen_space(graph, Knob.BRANCHES)
    assert values(space, "prune/block1.conv1") == (0.0, 0.5)
    assert not space.can_remove("block1.conv1")


@pytest.mark.parametrize(("temperature", "fixed"), [(None, 4.0), (2.0, 2.0)], ids=["default", "as configured"])
def test_search_space_fixes_temperature_when_distillation_is_frozen(graph: ModelGraph, temperature: float | None, fixed: float) -> None:
    space = SearchSpace(graph, SpaceOptions(channel_step=4, temperature=temperature, frozen=frozenset({Knob.DISTILLATION})))
    assert space.variables[-2:] == (Range(TEMPERATURE, fixed, fixed, fixed), Range(ALPHA, 0.9, 0.9, 0.9))


def test_params_raises_when_the_plan_turns_a_frozen_knob(graph: ModelGraph) -> None:
    with pytest.raises(ConfigError, match=r"kept channels must be a step of the space, but got 0 at block1\.conv1"):
        frozen_space(graph, Knob.BRANCHES).params(Plan(kept={"block1.conv1": 0}))
    with pytest.raises(ConfigError, match="'bits/fc' is unknown"):
        frozen_space(graph, Knob.BITS).params(Plan(bits={"fc": 8}))
    with pytest.raises(ConfigError, match=r"4\.0 <= distill/temperature <= 4\.0 must hold, but got 2\.0"):
        frozen_space(graph, Knob.DISTILLATION).params(Plan(temperature=2.0))


def test_search_space_says_what_is_frozen_when_a_knob_is(graph: ModelGraph) -> None:
    assert frozen_space(graph, Knob.RANK).left_out == (Frozen("rank", "frozen by the configuration"),)


def test_search_space_raises_when_nothing_is_left_to_change(graph: ModelGraph) -> None:
    with pytest.raises(ConfigError, match="a search must have something to change, but got frozen="):
        frozen_space(graph, Knob.PRUNE, Knob.BITS, Knob.RANK, Knob.BRANCHES)


def test_neighbour_stays_at_a_fixed_value_when_it_has_many_digits() -> None:
    alpha = 1.0 - 0.9  # 0.09999999999999998
    fixed, rng = Range(ALPHA, alpha, alpha, alpha), np.random.default_rng(0)
    assert fixed.neighbour(alpha, rng) == fixed.sample(rng) == alpha


def test_search_space_offers_criteria_when_several_are_named(graph: ModelGraph) -> None:
    space = SearchSpace(graph, SpaceOptions(channel_step=4, importance=(Criterion.L2, Criterion.TAYLOR)))
    assert values(space, IMPORTANCE) == ("l2", "taylor")
    thinned = space.plan(space.defaults() | {"prune/stem": 0.5, IMPORTANCE: "taylor"})
    assert thinned == Plan(kept={"stem": 4}, importance=Criterion.TAYLOR)
    assert space.plan(space.params(thinned)) == thinned
    assert space.plan(space.defaults() | {"prune/block1.conv1": 1.0, IMPORTANCE: "taylor"}) == Plan(kept={"block1.conv1": 0})


def test_search_space_takes_the_one_criterion_when_no_other_is_named(graph: ModelGraph) -> None:
    space = SearchSpace(graph, SpaceOptions(channel_step=4, importance=(Criterion.APOZ,)))
    assert IMPORTANCE not in space.defaults()
    assert space.plan(space.defaults() | {"prune/stem": 0.5}).importance is Criterion.APOZ
    assert {plan.importance for plan in initial_plans(space, []) if plan.kept} == {Criterion.APOZ}
    with pytest.raises(ConfigError, match="ranked by apoz"):
        space.params(Plan(kept={"stem": 4}))


def test_search_space_offers_no_criterion_when_nothing_can_be_thinned(graph: ModelGraph) -> None:
    options = SpaceOptions(channel_step=4, frozen=frozenset({Knob.PRUNE}), importance=(Criterion.L2, Criterion.TAYLOR))
    assert IMPORTANCE not in SearchSpace(graph, options).defaults()


@pytest.mark.parametrize("importance", [(), (Criterion.L1, Criterion.L1)], ids=["none", "one twice"])
def test_space_options_raise_when_criteria_are_not_distinct(importance: tuple[Criterion, ...]) -> None:
    with pytest.raises(ConfigError, match="distinct criteria"):
        SpaceOptions(importance=importance)
