from __future__ import annotations

import pytest
from torch import Tensor, nn

from paretopress.errors import ConfigError
from paretopress.graph import ModelGraph
from paretopress.intake.trace import take_in
from paretopress.plan import Plan
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.spaces.variables import Choice


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
