"""The facts of real files as the runtime optimises them: structure, never time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretopress.evaluators.cause import CauseKind
from paretopress.evaluators.causes_float import odd_channels, zeros_in_weights
from paretopress.evaluators.causes_quantised import float_islands, stray_qdq, unfused_layers
from paretopress.evaluators.optimised_graph import Conditions, Facts, read_facts
from paretopress.evaluators.rates import Rates
from paretopress.runtimes.runtime import SessionSettings

CHANNELS = 16
FEED = {"x": np.random.default_rng(0).standard_normal((1, CHANNELS, 8, 8)).astype(np.float32)}
CONDITIONS = Conditions(SessionSettings(), Rates(100.0, 400.0, 20.0, 10.0), channel_step=16)


def facts(path: Path) -> Facts:
    return read_facts(path, FEED, CONDITIONS, runs=3)


def two_int8_layers(net: Any, *, after_relu: int = 0) -> str:
    x = net.cast("x", np.uint8(128))
    for name in ("first", "second"):
        x = net.cast(net.op("Relu", net.conv(x, name, int8=True)), np.uint8(after_relu))
    return x


def test_read_facts_finds_layers_macs_and_types_when_everything_fuses(write: Any) -> None:
    found = facts(write(two_int8_layers))
    layers = [(node.op, node.layer.name, node.macs, node.dtype) for node in found.nodes if node.layer is not None]
    macs = CHANNELS * CHANNELS * 9 * 64
    assert layers == [("QLinearConv", "first", macs, "uint8"), ("QLinearConv", "second", macs, "uint8")]
    assert all(node.latency_ms > 0.0 for node in found.nodes)
    assert found.whole_ms > 0.0
    assert unfused_layers(found) == stray_qdq(found) == float_islands(found) == []


def test_unfused_layers_names_both_when_the_zero_point_blocks_fusion(write: Any) -> None:
    (cause,) = unfused_layers(facts(write(lambda net: two_int8_layers(net, after_relu=128))))
    assert (cause.kind, cause.where) == (CauseKind.ZERO_POINT, ("first", "second"))


def test_float_islands_names_the_swish_when_it_stands_between_int8_layers(write: Any) -> None:
    def grow(net: Any) -> str:
        x = net.cast(net.conv(net.cast("x", np.uint8(128)), "first", int8=True), np.uint8(128))
        x = net.cast(net.op("HardSwish", x, name="swish"), np.uint8(8))
        return net.cast(net.conv(x, "second", int8=True), np.uint8(128))

    found = facts(write(grow))
    (cause,) = float_islands(found)
    assert cause.where == ("HardSigmoid", "Mul")  # what the runtime makes of it
    assert unfused_layers(found) == []


def test_stray_qdq_names_the_pair_when_a_float_model_has_one_on_a_skip(write: Any) -> None:
    def grow(net: Any) -> str:
        x = net.op("Relu", net.conv("x", "first"))
        return net.op("Add", net.conv(x, "second"), net.cast(x))

    (cause,) = stray_qdq(facts(write(grow)))
    assert len(cause.where) == 2


@pytest.mark.parametrize(("outputs", "odd"), [(16, False), (15, True)])
def test_odd_channels_names_the_layer_when_its_width_is_no_multiple(write: Any, outputs: int, odd: bool) -> None:
    weights = np.ones((outputs, CHANNELS, 3, 3), np.float32)
    found = odd_channels(facts(write(lambda net: net.op("Relu", net.conv("x", "conv", weights)))))
    assert [cause.where for cause in found] == ([("conv",)] if odd else [])


def test_zeros_in_weights_names_the_layer_when_channels_are_masked(write: Any) -> None:
    weights = np.ones((CHANNELS, CHANNELS, 3, 3), np.float32)
    weights[::2] = 0.0
    (cause,) = zeros_in_weights(facts(write(lambda net: net.conv("x", "conv", weights))))
    assert (cause.kind, cause.where) == (CauseKind.MASKED_CHANNELS, ("conv",))
    assert cause.what.startswith("8 output channels")
