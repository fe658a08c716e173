"""The space that a configuration and a target's capabilities make, and the steps that the time allows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from paretopress.config import parse_config
from paretopress.core.model_graph import ModelGraph
from paretopress.core.outcome import Latency, Metric, Outcome, Rung
from paretopress.errors import ConfigError
from paretopress.intake.trace import take_in
from paretopress.run import setup
from paretopress.run.setup import plan_effort, space_for, training_place
from paretopress.run.state import RunState
from paretopress.search.accuracy_scale import AccuracyScale
from paretopress.spaces.knobs import Knob
from paretopress.spaces.space import SearchSpace
from paretopress.targets.capabilities import Capabilities
from paretopress.trial.effort import Effort

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


def test_training_place_differs_when_threads_device_or_host_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found, threads = [training_place()], torch.get_num_threads()
    assert training_place() == found[0]
    try:
        torch.set_num_threads(threads + 1)
        found.append(training_place())
    finally:
        torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(setup, "best_device", lambda: torch.device("mps"))
        found.append(training_place())
    with monkeypatch.context() as patch:
        patch.setattr(setup, "environment_here", lambda: {"cpu": "another"})
        found.append(training_place())
    assert len({str(place) for place in found}) == 4


def test_space_for_prunes_in_the_targets_steps_unless_told_when_built(graph: ModelGraph) -> None:
    wide, fine = (space_for(graph, parse_config({"space": space}, "the test"), SLOW) for space in ({}, {"channel_step": 8}))
    steps = [next(v.values for v in space.variables if v.name == "prune/0") for space in (wide, fine)]  # type: ignore[attr-defined]
    assert steps == [(0.0, 0.5), (0.0, 0.25, 0.5, 0.75)]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        # 1,000 s left, 40 % for 4 finalists: 600 s * 0.7 of training are 420 s, 168 for 120 plans and 252 for 30; 400 s * 0.9 for 4
        ({"time": {"minutes": 20, "finalists": 4}}, (14, 84, 900)),
        ({"time": {"minutes": 20, "finalists": 4, "trials": 60}}, (28, 84, 900)),
        ({"time": {"minutes": 20, "finalists": 4}, "recovery": {"short_steps": 7}}, (7, 0, 900)),
        ({"time": {"minutes": 20, "finalists": 4}, "recovery": {"short_steps": 7, "long_steps": 9, "final_steps": 11}}, (7, 9, 11)),
        ({"time": {"trials": 5}}, (25, 100, 400)),
    ],
    ids=["by the time", "few trials", "short steps alone", "all told", "no time"],
)
def test_plan_effort_divides_the_time_unless_told(sections: dict[str, Any], expected: tuple[int, int, int]) -> None:
    config = parse_config(sections, "the test")
    effort = plan_effort(config.recovery, config.limits(), 0.1, 200.0, 1_000)
    assert (effort.short_steps, effort.long_steps, effort.final_steps) == expected


@pytest.mark.parametrize(
    ("step_s", "least", "expected"),
    [(0.1, 20, (0, 140)), (0.1, 14, (14, 84)), (1.0, 5, (5, 8)), (1.0, 40, (0, 40)), (2.0, 40, (0, 26))],
    ids=["few that gain nothing", "enough", "few that gain", "fewer longer ones", "as many as fit"],
)
def test_plan_effort_leaves_out_short_recoveries_that_gain_nothing(step_s: float, least: int, expected: tuple[int, int]) -> None:
    config = parse_config({"time": {"minutes": 20, "finalists": 4}}, "the test")
    effort = plan_effort(config.recovery, config.limits(), step_s, 200.0, 1_000, least)
    assert (effort.short_steps, effort.long_steps) == expected


def test_plan_effort_trains_no_rung_for_more_than_a_few_epochs() -> None:
    config = parse_config({"time": {"hours": 10}}, "the test")
    effort = plan_effort(config.recovery, config.limits(), 0.1, 0.0, 10)
    assert (effort.short_steps, effort.long_steps, effort.final_steps) == (20, 80, 400)


def test_space_for_freezes_what_the_configuration_names_when_built(graph: ModelGraph) -> None:
    config = parse_config({"space": {"frozen": ["bits", "distillation"]}}, "the test")
    space = space_for(graph, config, SLOW)
    assert space.options.frozen == {Knob.BITS, Knob.DISTILLATION}
    assert bits(space) == {}
    assert parse_config(config.to_json(), "config.json") == config


def test_parse_config_lists_the_knobs_when_one_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"at space\.frozen\.0: .*'prune', 'bits', 'rank', 'branches' or 'distillation', got 'widths'"):
        parse_config({"space": {"frozen": ["widths"]}}, "the test")


def state(val_error: float | None) -> RunState:
    latency = Latency(8.0, (7.8, 8.2), 1.0, (0.99, 1.01), 8.0, 9.0, 8.0, 16, 100, 1.0)
    baseline = Outcome(Rung.FINAL, 90.0, 1, 1, latency, 1, "baseline.onnx", "0" * 64, val_error=val_error)
    return RunState("0" * 64, baseline, 0.1, {}, 0.1, Effort(1, 1, 1, 1), (), {}, (), {}, {"train": 100, "val": 10_000, "test": 100}, 1.0)


def test_bounds_have_the_baselines_scale_when_the_state_is_read_back() -> None:
    config = parse_config({"budget": {"latency_ms": 4.0}}, "the test")
    bounds = RunState.from_json(json.loads(json.dumps(state(0.3).to_json()))).bounds(config)
    assert bounds.scale == AccuracyScale.of_baseline(0.3, 10_000)
    assert bounds.baseline_ci_ms == (7.8, 8.2)
    assert (bounds.worst_drop, bounds.floor) == pytest.approx((10.0, 0.5))


def test_bounds_name_the_metric_that_the_data_were_scored_by() -> None:
    config = parse_config({"budget": {"latency_ms": 4.0}}, "the test")
    scored = replace(state(0.3), metric=Metric("SQNR", "dB"))
    assert RunState.from_json(json.loads(json.dumps(scored.to_json()))).bounds(config).metric == Metric("SQNR", "dB")
    assert state(0.3).bounds(config).metric == config.metric.metric()  # a run of an earlier version


@pytest.mark.parametrize("val_error", [None, 0.0])
def test_bounds_have_no_scale_when_the_baselines_error_is_not_known(val_error: float | None) -> None:
    bounds = state(val_error).bounds(parse_config({"budget": {"latency_ms": 4.0}}, "the test"))
    assert bounds.scale is None
    assert bounds.floor > 0.0
