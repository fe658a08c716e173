"""What small files say of their layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretopress.evaluators.source_graph import EightBits, Format, SourceLayer, source_layers, table_rows

CHANNELS = 16


def layers(net: Any, y: str) -> dict[str, SourceLayer]:
    return source_layers(net.model(y).graph)


def test_source_layers_reads_a_float_layer_when_nothing_is_quantised(net: Any) -> None:
    weights = np.ones((CHANNELS, CHANNELS, 3, 3), np.float32)
    weights[:4] = 0.0  # four whole channels
    weights[4, 0] = 0.0  # and nine weights of a fifth
    (layer,) = layers(net, net.conv("x", "stem", weights)).values()
    assert (layer.name, layer.op, layer.bits, layer.format, layer.depthwise) == ("stem", "Conv", 32, Format.FLOAT, False)
    assert (layer.in_channels, layer.out_channels, layer.params) == (16, 16, 2304)
    assert layer.zero_share == pytest.approx((4 * 144 + 9) / 2304)
    assert layer.zero_channels == 4
    assert layer.reads is layer.writes is None


def test_source_layers_reads_both_sides_when_a_relu_precedes_the_output(net: Any) -> None:
    x = net.cast("x", np.uint8(128))
    y = net.cast(net.op("Relu", net.conv(x, "conv", int8=True)), np.uint8(3))
    layer = layers(net, y)["conv"]
    assert (layer.format, layer.bits, layer.zero_share, layer.activation) == (Format.INT8, 8, 0.0, "Relu")
    assert (layer.reads, layer.writes) == (EightBits("uint8", 128), EightBits("uint8", 3))


def test_source_layers_counts_the_zero_point_as_zero_for_unsigned_weights(net: Any) -> None:
    weights = np.full((CHANNELS, CHANNELS, 3, 3), 128, np.uint8)
    weights[:, :4] = 0  # 128 steps below zero, not zero
    tensor = net.op("DequantizeLinear", net.constant(weights), net.constant(np.float32(0.01)), net.constant(np.uint8(128)))
    assert layers(net, net.op("Conv", "x", tensor, name="conv"))["conv"].zero_share == 0.75


def test_source_layers_names_no_output_when_something_else_follows(net: Any) -> None:
    y = net.op("Add", net.conv(net.cast("x"), "conv", int8=True), "x")
    assert layers(net, y)["conv"].writes is None


def test_source_layers_knows_a_depthwise_layer_when_groups_are_channels(net: Any) -> None:
    layer = layers(net, net.conv("x", "dw", groups=CHANNELS))["dw"]
    assert layer.depthwise
    assert layer.in_channels == CHANNELS


def test_source_layers_leaves_out_a_product_of_activations(net: Any) -> None:
    assert layers(net, net.op("MatMul", "x", "x", name="scores")) == {}


def test_source_layers_reads_packed_weights_when_they_have_4_bits() -> None:
    packed = helper.make_tensor("w", TensorProto.UINT8, (6, 2, 16), bytes(192), raw=True)
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], name="fc", domain="com.microsoft", K=64, N=6, bits=4, block_size=32)
    (layer,) = source_layers(helper.make_graph([node], "g", [], [], [packed])).values()
    assert (layer.weight_shape, layer.out_channels, layer.bits, layer.format) == ((6, 64), 6, 4, Format.WEIGHT_ONLY)


@pytest.mark.parametrize("transposed", [0, 1])
def test_source_layers_finds_a_gemms_outputs_when_weights_are_transposed(net: Any, transposed: int) -> None:
    weights = np.ones((5, 3) if transposed else (3, 5), np.float32)
    layer = layers(net, net.op("Gemm", "x", net.constant(weights), name="fc", transB=transposed))["fc"]
    assert layer.out_channels == 5


@pytest.mark.parametrize(
    ("dtype", "zero_point", "lowest"), [("uint8", 0, True), ("uint8", 128, False), ("int8", -128, True), ("int8", 0, False)]
)
def test_lowest_is_zero_follows_the_type_when_the_zero_point_is_known(dtype: str, zero_point: int, lowest: bool) -> None:
    assert EightBits(dtype, zero_point).lowest_is_zero is lowest


@pytest.mark.parametrize(("shape", "channels_last"), [((2, 99, 4, 5), False), ((2, 4, 5, 99), True)])
def test_macs_counts_the_layers_own_channels_when_the_kernel_pads(shape: tuple[int, ...], channels_last: bool) -> None:
    layer = SourceLayer("c", "Conv", (8, 3, 3, 3), 8)
    assert layer.macs(shape, channels_last=channels_last) == 2 * 4 * 5 * math.prod((8, 3, 3, 3))


def test_macs_counts_rows_when_the_layer_is_linear() -> None:
    assert SourceLayer("fc", "Gemm", (10, 64), 10).macs((2, 10), channels_last=False) == 2 * 640
    assert SourceLayer("fc", "Gemm", (10, 64), 10).macs((), channels_last=False) == 0


def test_table_rows_are_those_of_the_smallest_table_of_an_input() -> None:
    """The mask is looked up nowhere; tokens in two tables, once as int32."""
    tables = [numpy_helper.from_array(np.zeros((rows, 4), np.float32), f"table{rows}") for rows in (20, 7)]
    nodes = [
        helper.make_node("Gather", ["table20", "tokens"], ["a"]),
        helper.make_node("Cast", ["tokens"], ["short"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table7", "short"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 8]) for name in ("tokens", "mask")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 4])]
    assert table_rows(helper.make_graph(nodes, "tokens", inputs, outputs, tables)) == {"tokens": 7}
