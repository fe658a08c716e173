"""The models that a probe runs: short chains of one kind of layer, in float and in the Q/DQ patterns that quantisers write.

Their weights are random, because what a kernel takes does not depend on values; one model has extreme values, to see sums saturate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from paretopress.targets.capabilities import Family

OPSET, IR_VERSION = 17, 8
INPUT = "input"
ACTIVATION_SCALE = 1 / 32
INT4_BLOCK = 32

_LAYERS, _SIZE = 6, 28
_FEATURES, _LINEAR_LAYERS = 512, 4
# width and kernel of the layers in a chain of one family
_CONVS = {Family.DENSE: (64, 3), Family.POINTWISE: (128, 1), Family.DEPTHWISE: (128, 3)}
_NARROW_SIZE = 32
_STEM_INPUTS, _STEM_OUTPUTS = 3, 32
# as in the 28 x 28 stage of MobileNetV2
_BOTTLENECK, _EXPANDED = 32, 192
_STEP_INPUTS = 16
_BIG_WIDTH, _BIG_LAYERS = 128, 4
_EXTREME_WIDTH, _EXTREME_SIZE = 64, 8


@dataclass(frozen=True, slots=True)
class Pattern:
    """How activations are quantised; weights are S8 per output channel and biases int32.

    `signed` is the zero-point of what takes both signs, `after_relu` that of what follows a ReLU.
    """

    activations: type[np.uint8] | type[np.int8]
    signed: int
    after_relu: int

    @property
    def keeps_relu(self) -> bool:
        """Return whether the ReLU remains in the file; one whose zero-point is the lowest value vanishes into it."""
        return self.after_relu != np.iinfo(self.activations).min


# what `lower.quantise` writes: activations calibrated by minimum and maximum, so that zero is the lowest value after a ReLU
U8S8 = Pattern(np.uint8, 128, 0)
U8S8_CENTRED = Pattern(np.uint8, 128, 128)
S8S8 = Pattern(np.int8, 0, 0)


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution of a chain; `pattern` None is float."""

    outputs: int
    kernel: int = 3
    depthwise: bool = False
    relu: bool = True
    pattern: Pattern | None = None


class _Graph:
    """Collects the nodes of a graph with one input of that shape; every method returns the name of the tensor it adds.

    `dtype` is that of the weights which are not quantised.
    """

    def __init__(self, *shape: int, dtype: type[np.float32] | type[np.float16] = np.float32) -> None:
        self._shape, self._dtype = shape, dtype
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def quantised(self, x: str, pattern: Pattern, *, relu: bool, scale: float = ACTIVATION_SCALE) -> str:
        """Put a Q/DQ pair behind `x`; `relu` says whether `x` is never negative."""
        zero_point = np.asarray(pattern.after_relu if relu else pattern.signed, pattern.activations)
        parameters = self.constant(np.asarray(scale, np.float32)), self.constant(zero_point)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def dequantised(self, value: npt.NDArray[np.integer], scale: npt.NDArray[np.float32]) -> str:
        """Put a DQ behind integers with one scale per index of their first axis."""
        zero_points = np.zeros(scale.shape, value.dtype)
        return self.node("DequantizeLinear", self.constant(value), self.constant(scale), self.constant(zero_points), axis=0)

    def parameters(self, shape: tuple[int, ...], pattern: Pattern | None) -> tuple[str, str]:
        """Add a weight of that shape, (outputs, inputs, ...), and a bias (outputs,)."""
        weight = self.rng.standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(math.prod(shape[1:])))
        bias = 0.1 * self.rng.standard_normal(shape[0], dtype=np.float32)
        if pattern is None:
            return self.constant(weight.astype(self._dtype)), self.constant(bias.astype(self._dtype))
        scale = np.abs(weight).reshape(shape[0], -1).max(axis=1) / np.float32(127)
        per_output = scale.reshape(-1, *(1 for _ in shape[1:]))
        bias_scale = scale * np.float32(ACTIVATION_SCALE)
        return (
            self.dequantised(np.rint(weight / per_output).astype(np.int8), scale),
            self.dequantised(np.rint(bias / bias_scale).astype(np.int32), bias_scale),
        )

    def conv(self, x: str, inputs: int, layer: Conv) -> str:
        groups = inputs if layer.depthwise else 1
        weight, bias = self.parameters((layer.outputs, inputs // groups, layer.kernel, layer.kernel), layer.pattern)
        y = self.node("Conv", x, weight, bias, group=groups, kernel_shape=[layer.kernel] * 2, pads=[layer.kernel // 2] * 4)
        if layer.relu and (layer.pattern is None or layer.pattern.keeps_relu):
            y = self.node("Relu", y)
        return y if layer.pattern is None else self.quantised(y, layer.pattern, relu=layer.relu)

    def model(self) -> onnx.ModelProto:
        """Return the model whose output is the last node's."""
        inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, self._shape)]
        outputs = [helper.make_tensor_value_info(self._nodes[-1].name, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "probe", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def feed_for(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    """Return standard normal values for the input of one of these models."""
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    return {INPUT: rng.standard_normal(shape, dtype=np.float32)}


def conv_chain(inputs: int, layers: Sequence[Conv], size: int) -> onnx.ModelProto:
    """Return convolutions in a row on (1, inputs, size, size); where float meets quantised a Q/DQ pair is put between."""
    graph = _Graph(1, inputs, size, size)
    x, channels, before = INPUT, inputs, Conv(inputs, relu=False)
    for layer in layers:
        if layer.pattern is not None and before.pattern is None:
            x = graph.quantised(x, layer.pattern, relu=before.relu)
        x = graph.conv(x, channels, layer)
        channels, before = layer.outputs, layer
    return graph.model()


def linear_chain(*, relu: bool, pattern: Pattern | None = None) -> onnx.ModelProto:
    """Return Linear layers in a row; quantised, the input of each has a Q/DQ pair, and the last output stays float."""
    graph, x = _Graph(1, _FEATURES), INPUT
    for i in range(_LINEAR_LAYERS):
        if pattern is not None:
            x = graph.quantised(x, pattern, relu=relu and i > 0)
        x = graph.node("Gemm", x, *graph.parameters((_FEATURES, _FEATURES), pattern), transB=1)
        if relu:
            x = graph.node("Relu", x)
    return graph.model()


def int4_linear_chain() -> onnx.ModelProto:
    """Return the Linear layers of `linear_chain` with 4-bit weights in blocks of 32 along their inputs, and float activations."""
    graph, x = _Graph(1, _FEATURES), INPUT
    blocks = _FEATURES // INT4_BLOCK
    for _ in range(_LINEAR_LAYERS):
        packed = graph.constant(graph.rng.integers(0, 256, (_FEATURES, blocks, INT4_BLOCK // 2), dtype=np.uint8))
        scales = graph.constant(np.full((_FEATURES, blocks), 0.2 / math.sqrt(_FEATURES), np.float32))
        x = graph.node("MatMulNBits", x, packed, scales, domain="com.microsoft", K=_FEATURES, N=_FEATURES, bits=4, block_size=INT4_BLOCK)
        x = graph.node("Add", x, graph.constant(np.full(_FEATURES, 0.1, np.float32)))
    return graph.model()


def family_chain(family: Family, *, relu: bool, pattern: Pattern | None = None) -> onnx.ModelProto:
    """Return a chain of dense 3x3, pointwise, depthwise 3x3 or Linear layers."""
    if family is Family.LINEAR:
        return linear_chain(relu=relu, pattern=pattern)
    width, kernel = _CONVS[family]
    layer = Conv(width, kernel, family is Family.DEPTHWISE, relu, pattern)
    return conv_chain(width, [layer] * _LAYERS, _SIZE)


def float16_chain() -> onnx.ModelProto:
    """Return the float dense chain with ReLUs in float16; what goes in and comes out is float32."""
    width, _ = _CONVS[Family.DENSE]
    graph = _Graph(1, width, _SIZE, _SIZE, dtype=np.float16)
    x = graph.node("Cast", INPUT, to=TensorProto.FLOAT16)
    for _ in range(_LAYERS):
        x = graph.conv(x, width, Conv(width))
    graph.node("Cast", x, to=TensorProto.FLOAT)
    return graph.model()


def narrow_chain(width: int, pattern: Pattern | None = None) -> onnx.ModelProto:
    """Return dense 3x3 convolutions of few channels on 32 x 32."""
    return conv_chain(width, [Conv(width, pattern=pattern)] * _LAYERS, _NARROW_SIZE)


def stem_chain(pattern: Pattern | None) -> onnx.ModelProto:
    """Return the first convolution of an image under `pattern`, and a quantised one that reads it."""
    return conv_chain(_STEM_INPUTS, [Conv(_STEM_OUTPUTS, pattern=pattern), Conv(_STEM_OUTPUTS, pattern=U8S8)], _NARROW_SIZE)


def bottleneck_chain(depthwise: Pattern | None) -> onnx.ModelProto:
    """Return two inverted bottlenecks with quantised pointwise layers around depthwise ones under `depthwise`."""
    block = [
        Conv(_EXPANDED, 1, pattern=U8S8),
        Conv(_EXPANDED, 3, depthwise=True, pattern=depthwise),
        Conv(_BOTTLENECK, 1, relu=False, pattern=U8S8),
    ]
    return conv_chain(_BOTTLENECK, block * 2, _SIZE)


def residual_chain(pattern: Pattern | None, *, float_skip: bool = False) -> onnx.ModelProto:
    """Return a dense convolution and three residual blocks of two; with `float_skip` the first and the adds stay float."""
    width, _ = _CONVS[Family.DENSE]
    graph, x = _Graph(1, width, _SIZE, _SIZE), INPUT
    first = Conv(width, pattern=None if float_skip else pattern)
    if first.pattern is not None:
        x = graph.quantised(x, first.pattern, relu=False)
    x = graph.conv(x, width, first)
    for _ in range(_LAYERS // 2):
        inner = graph.quantised(x, pattern, relu=True) if pattern is not None and float_skip else x
        inner = graph.conv(graph.conv(inner, width, Conv(width, pattern=pattern)), width, Conv(width, relu=False, pattern=pattern))
        x = graph.node("Add", x, inner)
        x = graph.node("Relu", x) if pattern is None or float_skip else graph.quantised(x, pattern, relu=True)
    return graph.model()


def step_chain(width: int) -> onnx.ModelProto:
    """Return float dense convolutions from a fixed number of inputs to `width` channels, so that all widths read one feed."""
    return conv_chain(_STEP_INPUTS, [Conv(width)] * _LAYERS, _SIZE)


def step_macs(width: int, step: int) -> int:
    """Return the MACs per position and tap of `step_chain(width)` if every width were padded to a multiple of `step`."""
    padded, inputs = (math.ceil(channels / step) * step for channels in (width, _STEP_INPUTS))
    return padded * inputs + (_LAYERS - 1) * padded * padded


def big_chain(pattern: Pattern | None = None) -> onnx.ModelProto:
    """Return dense 3x3 convolutions that are large enough to show the target's peak."""
    return conv_chain(_BIG_WIDTH, [Conv(_BIG_WIDTH, pattern=pattern)] * _BIG_LAYERS, _SIZE)


def big_chain_macs() -> int:
    """Return the multiply-adds of `big_chain` for one input."""
    return _BIG_LAYERS * _BIG_WIDTH**2 * 9 * _SIZE**2


@dataclass(frozen=True, slots=True, eq=False)
class Extreme:
    """A quantised convolution whose sums saturate in 16 bits.

    `expected` is the output by exact integer sums, (1, C, H, W) float32; `step` is what one step of the output is worth.
    """

    model: onnx.ModelProto
    feed: dict[str, npt.NDArray[np.float32]]
    expected: npt.NDArray[np.float32]
    step: float


def extreme_conv() -> Extreme:
    """Return a pointwise convolution of activations from 128 to 255 with weights of -127 and 127.

    `vpmaddubsw` adds two products in 16 bits: 2 * 255 * 127 is twice what they hold. With 7-bit weights nothing saturates.
    Source: ONNX Runtime documentation, "Quantize ONNX models", on U8S8 saturation.
    """
    width, size = _EXTREME_WIDTH, _EXTREME_SIZE
    graph = _Graph(1, width, size, size)
    activations = graph.rng.integers(128, 256, (width, size * size))
    weights = graph.rng.choice([-127, 127], (width, width))
    sums = weights @ activations
    step = float(np.float32(np.abs(sums).max() / 127))
    x = graph.quantised(INPUT, U8S8, relu=True, scale=1.0)
    weight = graph.dequantised(weights.astype(np.int8).reshape(width, width, 1, 1), np.ones(width, np.float32))
    graph.quantised(graph.node("Conv", x, weight), U8S8, relu=False, scale=step)
    shape = (1, width, size, size)
    expected = (np.rint(sums / step) * step).astype(np.float32).reshape(shape)
    return Extreme(graph.model(), {INPUT: activations.astype(np.float32).reshape(shape)}, expected, step)
