"""Static quantisation to 8 bits, written into a graph as pairs of QuantizeLinear and DequantizeLinear (QDQ).

The figures and the names are those of ONNX Runtime's quantiser (onnxruntime.quantization, QDQ format, per-channel symmetric weights,
unsigned activations, minimum and maximum as ranges), which takes seconds where this takes tens of milliseconds: its ranges come from a
graph without optimisations with every tensor as an output, and its weights are rounded channel by channel. The tests compare the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from paretopress.core.arrays import Feed
from paretopress.runtimes.onnx_runtime import LOG_ERRORS_ONLY, PROVIDERS

# tensor -> least and largest value
Ranges = Mapping[str, tuple[float, float]]
_Floats = npt.NDArray[np.float32]

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
LAYER_OPS, ACTIVATIONS = frozenset({"Conv", "Gemm", "MatMul"}), frozenset({"Relu", "Clip"})
# what they put out has the values of what they read, or lies between them
_SAME_RANGE = frozenset({"MaxPool", "AveragePool", "Reshape", "Flatten"})
# of a file that is only timed: activations that are bounded, or at least 0, and what hands them on
_ANY_RANGE, _UNIT_RANGE, _FAR = (-1.0, 1.0), (0.0, 1.0), 1e6
_BOUNDED = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax"})
_MOVING = _SAME_RANGE | {"GlobalAveragePool", "Transpose", "Pad", "Resize", "Slice", "Split", "Squeeze", "Unsqueeze", "ReduceMean"}
_UNSIGNED, _REDUCED_UNSIGNED = 255.0, 127.0
_SIGNED, _REDUCED_SIGNED = 127.0, 64.0
_TINY = float(np.finfo(np.float32).tiny)
# a bias in 32 bits must not overflow: its scale is at least so many times what would just hold it
_BIAS_ROOM, _BIAS_RANGE = 1.0001, 2.0 * np.iinfo(np.int32).max
_LEAST, _LARGEST = "_least", "_largest"
# tensors before a pair, where its output has the name of the model's, and behind it
_BEFORE, _WIDENED = "_QuantizeLinear_Input", "_DequantizeLinear_Output"


@dataclass(frozen=True, slots=True)
class _Bias:
    """A bias, which is rounded by the product of the scales of a node's input and weight, times `beta`."""

    input_name: str
    weight_name: str
    beta: float


@dataclass(slots=True)
class Marks:
    """What of a graph is to be quantised.

    Attributes:
        activations: tensor -> the tensor whose range it has, itself as a rule.
        weights: initialiser -> the axis of its output channels.
        constants: initialisers that are rounded like activations, because an elementwise node reads them.
        merged: tensor -> the output of the activation behind it, which is taken out; the tensor gets that name.
        ranges_of: tensor -> the tensor whose range is taken for its own.
    """

    activations: dict[str, str] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    biases: dict[str, _Bias] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    ranges_of: dict[str, str] = field(default_factory=dict)

    def measured(self) -> list[str]:
        """Return the tensors whose ranges are needed."""
        own = (name for name, provider in self.activations.items() if name == provider)
        return list(dict.fromkeys(self.ranges_of.get(name, name) for name in own))


def mark(graph: onnx.GraphProto, nodes: Sequence[str]) -> Marks:
    """Return what is to be quantised where the named nodes are; the graph is left as it is.

    Layers get 8 bits for what they read and their weights, convolutions for what they put out too; an activation behind a tensor that
    nothing else reads vanishes into that tensor's range; poolings and reshapes keep the range of what they read; other nodes get 8 bits
    for all that they read and put out.
    """
    chosen, marks = set(nodes), Marks()
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    others = {tensor.name for tensor in graph.initializer} - floats
    readers = Counter(name for node in graph.node for name in node.input)
    outside = {value.name for value in (*graph.input, *graph.output)}

    def activation(name: str) -> None:
        if name in floats:
            if name not in marks.weights and name not in marks.constants:
                marks.constants.append(name)
        elif name and name not in others:
            marks.activations.setdefault(name, name)

    for node in graph.node:
        if node.name not in chosen:
            continue
        first, output = node.input[0], node.output[0]
        if node.op_type in LAYER_OPS:
            _mark_layer(node, marks, floats, activation)
        elif node.op_type in ACTIVATIONS:
            if first not in marks.activations:
                continue
            if readers[first] == 1:
                if first not in outside:
                    marks.merged[first] = output
                    del marks.activations[first]
                else:
                    marks.ranges_of[first] = output
            activation(output)
        elif node.op_type in _SAME_RANGE:
            if first in marks.activations:
                marks.activations[output] = first
        else:
            for name in (*node.input, *node.output):
                activation(name)
    return marks


def _mark_layer(node: onnx.NodeProto, marks: Marks, floats: set[str], activation: Callable[[str], None]) -> None:
    if node.op_type == "MatMul":
        for name in node.input:
            if name in floats:
                marks.weights[name] = 1
            else:
                activation(name)
        return
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    source, weight = node.input[0], node.input[1]
    activation(source)
    if node.op_type == "Conv":
        activation(node.output[0])
    if weight not in floats:
        activation(weight)
        return
    marks.weights[weight] = 0 if node.op_type == "Conv" or options.get("transB", 0) else 1
    if len(node.input) > 2 and node.input[2] in floats:
        marks.biases[node.input[2]] = _Bias(source, weight, float(options.get("beta", 1.0)))


def measure_ranges(model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feed]) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of each tensor of a model over all feeds, at least one."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in tensors:
        for op, suffix in (("ReduceMin", _LEAST), ("ReduceMax", _LARGEST)):
            watched.graph.node.append(helper.make_node(op, [name], [name + suffix], name=f"{name}{suffix}_node", keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(name + suffix, onnx.TensorProto.FLOAT, []))
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=list(PROVIDERS))
    found = np.array([session.run(None, dict(feed)) for feed in feeds], np.float32).reshape(-1, len(tensors), 2)
    least, largest = found[..., 0].min(axis=0), found[..., 1].max(axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(tensors, least, largest, strict=True)}


def made_up_ranges(graph: onnx.GraphProto, tensors: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return ranges for a file that is only timed: such that its operators are those of the file with measured ranges.

    The runtime drops a ReLU or a Clip before a QuantizeLinear whose range lies within what the activation puts out, and computes a float
    convolution between two of 8 bits in 8 bits then: MobileNet-like networks took three times as long with ranges below 0 there.
    """
    makers = {name: node for node in graph.node for name in node.output}
    held = {tensor.name: tensor for tensor in graph.initializer}
    held |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"}

    def bound(name: str, default: float) -> float:
        value = float(numpy_helper.to_array(held[name]).reshape(-1)[0]) if name in held else default
        return value if abs(value) < _FAR else default

    def made_up(name: str) -> tuple[float, float]:
        node = makers.get(name)
        while node is not None and node.op_type in _MOVING:
            node = makers.get(node.input[0])
        if node is None or node.op_type not in _BOUNDED:
            return _ANY_RANGE
        if node.op_type != "Clip":
            return _UNIT_RANGE
        low, high = (node.input[place] if len(node.input) > place else "" for place in (1, 2))
        least = bound(low, _ANY_RANGE[0])
        return least, bound(high, max(least, 0.0) + 1.0)

    return {name: made_up(name) for name in tensors}


def write_qdq(graph: onnx.GraphProto, marks: Marks, ranges: Ranges, *, reduce_range: bool) -> None:
    """Quantise a graph in place.

    Args:
        ranges: of all tensors that `Marks.measured` names.
        reduce_range: 7 bits for weights.
    Raises: ValueError: a range is not finite.
    """
    _Writer(graph, marks, ranges, reduce_range).write()


class _Writer:
    def __init__(self, graph: onnx.GraphProto, marks: Marks, ranges: Ranges, reduce_range: bool) -> None:
        self._graph, self._marks, self._ranges, self._reduce_range = graph, marks, ranges, reduce_range
        self._arrays = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._scales: dict[str, _Floats] = {}
        self._first: list[onnx.NodeProto] = []

    def write(self) -> None:
        graph, marks = self._graph, self._marks
        self._take_out_activations()
        pairs = {name: self._pair(name, provider) for name, provider in marks.activations.items()}
        for name, axis in marks.weights.items():
            self._weight(name, axis)
        for name in marks.constants:
            self._constant(name)
        for name, bias in marks.biases.items():
            self._bias(name, bias)
        read = {name: name + _WIDENED for name in (*pairs, *marks.weights, *marks.constants)}
        placed = [node for value in graph.input for node in pairs.get(value.name, ())] + self._first
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name in read and name not in self._outputs:
                    node.input[place] = read[name]
            if len(node.input) > 2 and node.input[2] in marks.biases:
                _without_beta(node)
            placed.append(node)
            for place, name in enumerate(node.output):
                placed.extend(pairs.get(name, ()))
                if name in pairs and name in self._outputs:
                    node.output[place] = name + _BEFORE
        _replace_nodes(graph, placed)
        used = {name for node in graph.node for name in node.input} - marks.biases.keys() | self._outputs
        for place in reversed(range(len(graph.initializer))):
            if graph.initializer[place].name not in used:
                del graph.initializer[place]

    def _take_out_activations(self) -> None:
        merged = self._marks.merged
        kept = []
        for node in self._graph.node:
            if node.input and node.op_type in ACTIVATIONS and merged.get(node.input[0]) == node.output[0]:
                continue
            for place, name in enumerate(node.output):
                while name in merged:
                    name = merged[name]
                node.output[place] = name
            kept.append(node)
        _replace_nodes(self._graph, kept)

    def _pair(self, name: str, provider: str) -> list[onnx.NodeProto]:
        """Return the two nodes behind a tensor, with the scale of `provider`, which has one by then."""
        while self._marks.activations.get(provider, provider) != provider:
            provider = self._marks.activations[provider]
        if provider not in self._scales:
            scale, zero = unsigned_scale(*self._ranges[self._marks.ranges_of.get(provider, provider)])
            self._scales[provider] = scale
            self._add(provider + "_scale", scale)
            self._add(provider + "_zero_point", zero)
        self._scales[name] = self._scales[provider]
        is_output = name in self._outputs
        source = name + _BEFORE if is_output else name
        sink = name if is_output else name + _WIDENED
        figures, rounded = [provider + "_scale", provider + "_zero_point"], name + "_QuantizeLinear_Output"
        return [
            helper.make_node(QUANTISE, [source, *figures], [rounded], name + "_QuantizeLinear"),
            helper.make_node(DEQUANTISE, [rounded, *figures], [sink], name + "_DequantizeLinear"),
        ]

    def _weight(self, name: str, axis: int) -> None:
        values = numpy_helper.to_array(self._arrays[name])
        scale = self._wide_enough(signed_scales(values, axis, reduce_range=self._reduce_range), name)
        self._scales[name] = scale
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        rounded = np.clip(np.round(values / scale.reshape(shape)), -128, 127).astype(np.int8)
        self._dequantised(name, name + "_quantized", rounded, name, scale, np.zeros(len(scale), np.int8), axis=axis)

    def _wide_enough(self, scale: _Floats, weight: str) -> _Floats:
        """Return the scales of a weight, wider where its bias would overflow."""
        for name, bias in self._marks.biases.items():
            if bias.weight_name == weight and bias.input_name in self._scales:
                needed = np.float32(_BIAS_ROOM) * (2 * np.abs(numpy_helper.to_array(self._arrays[name])))
                wanted = needed.astype(np.float64) / _BIAS_RANGE
                had = np.float64(self._scales[bias.input_name]) * scale.astype(np.float64)
                wider = (scale * np.divide(wanted, had, out=np.ones_like(had), where=had > 0.0)).astype(np.float32)
                scale = np.where((had < wanted) & (had > 0.0), wider, scale)
        return scale

    def _constant(self, name: str) -> None:
        values = numpy_helper.to_array(self._arrays[name])
        steps = _REDUCED_UNSIGNED if self._reduce_range else _UNSIGNED
        scale, zero = unsigned_scale(float(values.min(initial=0.0)), float(values.max(initial=0.0)), steps)
        rounded = np.clip(np.round(values / scale) + zero, 0, 255).astype(np.uint8)
        self._dequantised(name, name + "_quantized", rounded, name, scale, zero)

    def _bias(self, name: str, bias: _Bias) -> None:
        values = numpy_helper.to_array(self._arrays[name]).astype(np.float64)
        scale = (self._scales[bias.input_name] * self._scales[bias.weight_name] * bias.beta).astype(np.float32)
        limits = np.iinfo(np.int32)
        rounded = np.clip(np.round(values / scale), limits.min, limits.max).astype(np.int32)
        self._dequantised(name, name + "_quantized", rounded, name + "_quantized", scale, np.zeros(len(scale), np.int32), axis=0, sink=name)

    def _dequantised(
        self,
        name: str,
        stored: str,
        values: npt.NDArray[Any],
        named: str,
        scale: _Floats,
        zero: npt.NDArray[Any],
        *,
        axis: int | None = None,
        sink: str | None = None,
    ) -> None:
        """Store rounded values and the node that widens them; `named` is what the names of scale and zero-point begin with."""
        for key, array in ((stored, values), (named + "_scale", scale), (named + "_zero_point", zero)):
            self._add(key, array)
        options: dict[str, Any] = {} if axis is None else {"axis": axis}
        inputs, output = [stored, named + "_scale", named + "_zero_point"], sink or name + _WIDENED
        self._first.append(helper.make_node(DEQUANTISE, inputs, [output], name + "_DequantizeLinear", **options))

    def _add(self, name: str, values: npt.NDArray[Any]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _without_beta(gemm: onnx.NodeProto) -> None:
    """Set the factor of the bias to 1: the bias's scale has it."""
    for attribute in gemm.attribute:
        if attribute.name == "beta":
            attribute.f = 1.0


def unsigned_scale(least: float, largest: float, steps: float = _UNSIGNED) -> tuple[_Floats, npt.NDArray[np.uint8]]:
    """Return scale () float32 and zero-point () uint8 for values between two bounds; zero is among them, and is hit exactly.

    Raises: ValueError: a bound is not finite.
    """
    low, high = (np.float64(np.float32(bound)) for bound in (min(least, 0.0), max(largest, 0.0)))
    if not np.isfinite(high - low):
        raise ValueError(f"the range of an activation must be finite, but got {least:g} to {largest:g}")
    scale = (high - low) / steps
    if scale < _TINY:
        return np.array(1.0, np.float32), np.array(0, np.uint8)
    return np.array(scale, np.float32), np.array(np.round(-low / scale), np.uint8)


def signed_scales(values: _Floats, axis: int, *, reduce_range: bool) -> _Floats:
    """Return the scale (C,) float32 of each channel along `axis`: the largest magnitude is the largest step, 127, or 64 of 7 bits."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    scale = np.abs(values).max(axis=others, initial=0.0).astype(np.float64) / (_REDUCED_SIGNED if reduce_range else _SIGNED)
    return np.where(scale < _TINY, 1.0, scale).astype(np.float32)
