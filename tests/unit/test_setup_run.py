"""The space that a configuration and a target's capabilities make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from paretopress.config import parse_config
from paretopress.errors import ConfigError
from paretopress.graph import ModelGraph
from paretopress.intake.trace import take_in
from paretopress.setup_run import space_for
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace
from paretopress.targets.capabilities import Capabilities

SLOW = Capabilities(
    channel_step=16,
    vnni=True,
    int8_activations=True,
    weight_only_bits=(4,),
    reduce_range=False,
    slow_int8={"depthwise": "1.60x slower than float"},
    slow_int4="2.00x slower than float",
    measured=True,
)


@pytest.fixture
def graph() -> ModelGraph:
    layers = [nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4)]
    return take_in(nn.Sequential(*layers).eval(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))).graph


def bits(space: SearchSpace) -> dict[str, tuple[object, ...]]:
    return {variable.name: variable.values for variable in space.variables if variable.name.startswith("bits/")}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, {"bits/0": (32, 8), "bits/4": (32, 8)}),
        ({"budget": {"size_bytes": 1000}}, {"bits/0": (32, 8), "bits/4": (32, 8, 4)}),
        ({"space": {"bits": [32, 8]}}, {"bits/0": (32, 8), "bits/1": (32, 8), "bits/4": (32, 8)}),
        ({"space": {"bits": [32]}}, {}),
    ],
    ids=["by capabilities", "with a size budget", "widths by name", "float by name"],
)
def test_space_for_offers_what_gains_unless_told_when_built(
    graph: ModelGraph, sections: dict[str, Any], expected: dict[str, tuple[int, ...]]
) -> None:
    assert bits(space_for(graph, parse_config(sections, "the test"), SLOW)) == expected


def test_space_for_prunes_in_the_targets_steps_unless_told_when_built(graph: ModelGraph) -> None:
    wide, fine = (space_for(graph, parse_config({"space": space}, "the test"), SLOW) for space in ({}, {"channel_step": 8}))
    steps = [next(v.values for v in space.variables if v.name == "prune/0") for space in (wide, fine)]  # type: ignore[attr-defined]
    assert steps == [(0.0, 0.5), (0.0, 0.25, 0.5, 0.75)]


def test_space_for_freezes_what_the_configuration_names_when_built(graph: ModelGraph) -> None:
    config = parse_config({"space": {"frozen": ["bits", "distillation"]}}, "the test")
    space = space_for(graph, config, SLOW)
    assert space.options.frozen == {Knob.BITS, Knob.DISTILLATION}
    assert bits(space) == {}
    assert parse_config(config.to_json(), "config.json") == config


def test_parse_config_lists_the_knobs_when_one_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"at space\.frozen\.0: .*'prune', 'bits', 'rank', 'branches' or 'distillation', got 'widths'"):
        parse_config({"space": {"frozen": ["widths"]}}, "the test")
