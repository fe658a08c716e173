from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.prune.channels import least_important
from paretopress.core.plan import Plan
from paretopress.intake.trace import Intake, take_in
from paretopress.spaces.space import SearchSpace, SpaceOptions


@pytest.fixture
def intake(attends: Callable[..., nn.Module], images: Tensor) -> Intake:
    return take_in(attends(), images[:2])


@pytest.mark.parametrize("keep", [8, 16, 24])
def test_compress_module_removes_heads_as_if_they_were_silent(intake: Intake, images: Tensor, keep: int) -> None:
    compressed = compress_module(intake.module, intake.graph, Plan(kept={"attentions.0.query": keep}))
    left = compressed.kept.outputs["attentions.0.value"]
    assert len(left) == keep
    assert compressed.kept.inputs["attentions.0.out"] == left
    assert compressed.module.get_submodule("attentions.0.out").in_features == keep
    silenced = copy.deepcopy(intake.module)
    value = silenced.get_submodule("attentions.0.value")
    gone = [channel for channel in range(32) if channel not in left]
    with torch.no_grad():
        value.weight[gone] = 0.0
        value.bias[gone] = 0.0
    with torch.inference_mode():
        torch.testing.assert_close(compressed.module(images), silenced(images), rtol=1e-4, atol=1e-5)


def test_least_important_heads_go_first(intake: Intake) -> None:
    (group,) = (group for group in intake.graph.channel_groups if group.name == "attentions.1.query")
    module = copy.deepcopy(intake.module)
    with torch.no_grad():
        for name in group.layers:
            module.get_submodule(name).weight[16:24] *= 0.01
    assert least_important(module, group, 24) == [2]


def test_search_space_offers_whole_heads_whatever_the_step_is(intake: Intake) -> None:
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=16))
    assert sorted(space.kept_widths("attentions.0.query").values()) == [0, 8, 16, 24, 32]  # 0: the branch around the attention
    assert sorted(space.kept_widths("first").values()) == [0, 16, 32, 48]
