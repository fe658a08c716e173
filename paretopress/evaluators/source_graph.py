"""Layers of an ONNX file before the runtime's optimisations: shapes, number formats, zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# operator -> which input holds the weights
WEIGHT_INPUT = {
    "Conv": 1,
    "FusedConv": 1,
    "Gemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,
}
# operator -> which input holds the zero-point of what it reads, and of what it writes
ZERO_POINTS = {"QLinearConv": (2, 7), "QLinearMatMul": (2, 7), "QGemm": (2, 8)}
DYNAMIC_OPS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"})
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"})
_PASSED_BY_WEIGHTS = frozenset({"DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "Transpose", "Reshape"})
_PASSED_BY_INDICES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"})
_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
}


class Format(StrEnum):
    """What a layer multiplies, as the file asks for it."""

    FLOAT = "float"
    INT8 = "int8"
    DYNAMIC_INT8 = "dynamic int8"
    WEIGHT_ONLY = "weight-only"


@dataclass(frozen=True, slots=True)
class EightBits:
    """The type and zero-point of a quantised activation."""

    dtype: str
    zero_point: int

    @property
    def lowest_is_zero(self) -> bool:
        """Whether the lowest code stands for 0.0, so that quantising does what a ReLU does."""
        return self.zero_point == np.iinfo(self.dtype).min


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One node with weights.

    Attributes:
        weight_shape: as it lies in the file, e.g. (O, I / groups, kH, kW).
        bits: of a weight as it lies in the file.
        zero_share, zero_channels: weights that are exactly zero, and output channels that hold no other.
        reads, writes: the quantisation of its input and output, None where there is no Q/DQ.
        activation: the operator between the layer and its quantised output, or "".
    """

    name: str
    op: str
    weight_shape: tuple[int, ...]
    out_channels: int
    groups: int = 1
    bits: int = 32
    zero_share: float = 0.0
    zero_channels: int = 0
    reads: EightBits | None = None
    writes: EightBits | None = None
    activation: str = ""

    @property
    def params(self) -> int:
        """Weights without the bias."""
        return math.prod(self.weight_shape)

    @property
    def format(self) -> Format:
        """What the layer multiplies if everything fuses."""
        if self.op in DYNAMIC_OPS:
            return Format.DYNAMIC_INT8
        if self.bits > 8:
            return Format.FLOAT
        return Format.INT8 if self.reads is not None else Format.WEIGHT_ONLY

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return "Conv" in self.op

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved on its own."""
        return self.is_conv and self.groups > 1 and self.weight_shape[1] == 1

    @property
    def in_channels(self) -> int:
        """Channels that a convolution reads."""
        return self.weight_shape[1] * self.groups

    def macs(self, output_shape: tuple[int, ...], *, channels_last: bool) -> int:
        """Return the multiply-adds of one run whose output has that shape, blocked and padded channels left out."""
        if not output_shape:
            return 0
        positions = output_shape[0] * math.prod(output_shape[2:]) if self.is_conv and not channels_last else math.prod(output_shape[:-1])
        return positions * self.params


def source_layers(graph: onnx.GraphProto) -> dict[str, SourceLayer]:
    """Return node key -> layer of every node that multiplies constant weights, in the order of the file; see `key`."""
    reader = _Reader(graph)
    found = ((key(node), reader.layer(node)) for node in graph.node if node.op_type in WEIGHT_INPUT)
    return {name: layer for name, layer in found if layer is not None}


def table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    """Return input -> rows of the smallest constant table that it is looked up in, as tokens are in an embedding."""
    tables = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) > 1}
    inputs = {value.name: value.name for value in graph.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _PASSED_BY_INDICES and node.input[0] in inputs:
            inputs[node.output[0]] = inputs[node.input[0]]
        elif node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in tables:
            tables[node.output[0]] = tables[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in tables and node.input[1] in inputs:
            name = inputs[node.input[1]]
            found[name] = min(tables[node.input[0]], found.get(name, tables[node.input[0]]))
    return found


def key(node: onnx.NodeProto) -> str:
    """Return what names a node: its name, or its first output if it has none."""
    return str(node.name or node.output[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return name -> value."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


class _Reader:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and "value" in (values := attributes(node)):
                self._constants[node.output[0]] = values["value"]
        self._producer = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def layer(self, node: onnx.NodeProto) -> SourceLayer | None:
        at, values = WEIGHT_INPUT[node.op_type], attributes(node)
        stored, quantiser = self._stored(node.input[at]) if len(node.input) > at else (None, None)
        if stored is None:
            return None
        bits, shape = _BITS.get(stored.data_type, 32), tuple(stored.dims)
        if node.op_type == "MatMulNBits":  # its weights are packed into blocks of bytes
            return SourceLayer(key(node), node.op_type, (values["N"], values["K"]), values["N"], bits=values.get("bits", 4))
        axis = 0 if "Conv" in node.op_type or values.get("transB", 0) else len(shape) - 1
        zeros = numpy_helper.to_array(stored) == self._weight_zero_point(quantiser, stored, axis)
        empty = zeros.all(axis=tuple(i for i in range(zeros.ndim) if i != axis))
        if quantiser is not None and quantiser.op_type == "QuantizeLinear":
            bits = 8  # float weights that the file quantises at every load
        reads, writes, activation = self._activations(node)
        return SourceLayer(
            key(node),
            node.op_type,
            shape,
            shape[axis],
            values.get("group", 1),
            bits,
            float(zeros.mean()),
            int(empty.sum()),
            reads,
            writes,
            activation,
        )

    def _stored(self, name: str) -> tuple[TensorProto | None, onnx.NodeProto | None]:
        """Return the constant that a tensor is made from, and the Q or DQ nearest to it."""
        quantiser = None
        while name not in self._constants:
            node = self._producer.get(name)
            if node is None or node.op_type not in _PASSED_BY_WEIGHTS:
                return None, None
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                quantiser = node
            name = node.input[0]
        return self._constants[name], quantiser

    def _weight_zero_point(self, quantiser: onnx.NodeProto | None, stored: TensorProto, axis: int) -> npt.NDArray[Any] | int:
        if quantiser is None or quantiser.op_type != "DequantizeLinear" or len(quantiser.input) < 3:
            return 0
        values = numpy_helper.to_array(self._constants[quantiser.input[2]])
        if values.size == stored.dims[axis]:
            return values.reshape([-1 if i == axis else 1 for i in range(len(stored.dims))])
        return values.ravel()[:1]

    def _activations(self, node: onnx.NodeProto) -> tuple[EightBits | None, EightBits | None, str]:
        if node.op_type in ZERO_POINTS:
            read, written = ZERO_POINTS[node.op_type]
            return self._eight_bits(node.input, read), self._eight_bits(node.input, written), ""
        before = self._producer.get(node.input[0])
        reads = self._eight_bits(before.input, 2) if before is not None and before.op_type == "DequantizeLinear" else None
        after, activation = self._readers.get(node.output[0], []), ""
        if len(after) == 1 and after[0].op_type in ACTIVATIONS:
            activation, after = after[0].op_type, self._readers.get(after[0].output[0], [])
        quantisers = [reader for reader in after if reader.op_type == "QuantizeLinear"]
        return reads, self._eight_bits(quantisers[0].input, 2) if quantisers else None, activation

    def _eight_bits(self, inputs: Sequence[str], at: int) -> EightBits | None:
        """Return the zero-point that an input holds; a Q or DQ without one means uint8 and 0."""
        if len(inputs) <= at or not inputs[at]:
            return EightBits("uint8", 0)
        tensor = self._constants.get(inputs[at])
        if tensor is None or tensor.data_type not in (TensorProto.INT8, TensorProto.UINT8):
            return None
        return EightBits(str(helper.tensor_dtype_to_np_dtype(tensor.data_type)), int(numpy_helper.to_array(tensor).ravel()[0]))
