"""Per-layer mixed quantisation of an exported ONNX file: static QDQ or dynamic at 8 bits, weight-only blocks at 4 bits, the rest float."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, version_converter
from onnxruntime.quantization import QuantType, quantize_dynamic

from paretopress.core.arrays import Feed
from paretopress.core.model_inputs import items_at_a_time, pieces
from paretopress.errors import LoweringError, typed_line
from paretopress.lower.export import CALL
from paretopress.lower.float16_storage import store_in_16_bits
from paretopress.lower.qdq import ACTIVATIONS, LAYER_OPS, made_up_ranges, mark, measure_ranges, write_qdq
from paretopress.system.atomic_files import write_bytes
from paretopress.system.quiet_logger import quiet_logger

_LSTM = "LSTM"
_LINEAR_OPS = frozenset({"Gemm", "MatMul"})
# ops that ONNX Runtime runs on 8 bits if all they read is 8 bits already
FOLLOWERS = frozenset({"Add", "MaxPool", "GlobalAveragePool", "AveragePool", "Flatten", "Reshape", "Concat"})
# and those that it moves quantisation across
_CROSSED = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})
_INT4_BLOCK = 32
_QDQ_OPSET = 13  # the first in which a weight has a scale for each channel


@dataclass(frozen=True, slots=True)
class Formats:
    """How the layers of all candidates are stored, beside their bits.

    Attributes:
        dynamic: what a Linear layer of 8 bits reads gets its range anew in every run, as the range of an LSTM does, and not from
            calibration data.
        float16: float weights lie in the file in 16 bits; the runtime widens them as it loads it, and computes in 32.
    """

    dynamic: bool = False
    float16: bool = False


PLAIN = Formats()


def quantise_onnx(
    source: Path,
    target: Path,
    bits: Mapping[str, int],
    calibration: Sequence[Feed],
    *,
    reduce_range: bool,
    formats: Formats = PLAIN,
) -> None:
    """Write a copy of `source` in which the named layers are quantised.

    LSTMs are rounded dynamically, and Linear layers where `formats` says so. Elsewhere activations are unsigned 8 bits, so that a ReLU
    vanishes into the zero-point, and weights signed 8 bits per output channel; a ReLU, an add or a pooling that reads quantised layers
    alone joins them.

    Args:
        bits: layer -> 8 or 4; layers that are not named stay float, but for those in `with_surrounded`. Factors `name.0` and `name.1`
            follow `name`.
        calibration: input name -> array, for each batch of training items; the ranges are the minimum and maximum seen. Without any, they
            are made up: what the file puts out is worth nothing then, and it takes the same time.
        reduce_range: 7-bit weights, for x86 CPUs without VNNI, where 8 bits saturate.
    Raises: LoweringError: a layer is not in the file, or the quantiser failed.
    """
    model = onnx.load(source)
    nodes = {level: _layer_nodes(model.graph, [name for name, b in bits.items() if b == level]) for level in (8, 4)}
    _own_weights(model.graph, nodes)
    ops = {node.name: node.op_type for node in model.graph.node}
    lstms = [name for name in nodes[8] if ops[name] == _LSTM]
    linears = [name for name in nodes[8] if formats.dynamic and ops[name] in _LINEAR_OPS]
    static = [name for name in nodes[8] if name not in {*lstms, *linears}]
    try:
        if lstms:
            model = _dynamic_8_bits(model, lstms, _LSTM, reduce_range)
        if linears:
            model = _dynamic_8_bits(model, linears, "MatMul", reduce_range)
        if nodes[4]:
            model = _weights_to_4_bits(model, nodes[4])
        if static:
            model = _static_8_bits(model, static, calibration, reduce_range)
        if formats.float16:
            store_in_16_bits(model.graph)
    except Exception as error:  # the quantiser raises whatever its operators meet
        raise LoweringError(f"quantisation must succeed, but got {typed_line(error)}") from error
    write_bytes(target, model.SerializeToString())


def _layer_nodes(graph: onnx.GraphProto, layers: Sequence[str]) -> list[str]:
    names = [node.name for node in graph.node if node.op_type in LAYER_OPS | {_LSTM}]
    found: list[str] = []
    for layer in layers:
        own = [name for name in names if name.split(CALL)[0] in (layer, f"{layer}.0", f"{layer}.1")]
        if not own:
            raise LoweringError(f"a quantised layer must be in the ONNX file, but {layer} is not")
        found.extend(own)
    return found


def _own_weights(graph: onnx.GraphProto, nodes: Mapping[int, Sequence[str]]) -> None:
    """Give the nodes of each number of bits weights of their own, where tied layers share them: a float layer must keep float weights."""
    level_of = {name: level for level, names in nodes.items() for name in names}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    levels: dict[str, list[int | None]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in weights:
                continue
            level = level_of.get(node.name) if place == 1 else None
            seen = levels.setdefault(name, [])
            if level not in seen:
                seen.append(level)
                if len(seen) > 1:
                    twin = onnx.TensorProto()
                    twin.CopyFrom(weights[name])
                    twin.name = _copy_name(name, seen.index(level))
                    graph.initializer.append(twin)
            if seen.index(level):
                node.input[place] = _copy_name(name, seen.index(level))


def _copy_name(name: str, index: int) -> str:
    return f"{name}{CALL}{index}"


def _static_8_bits(model: onnx.ModelProto, layers: Sequence[str], calibration: Sequence[Feed], reduce_range: bool) -> onnx.ModelProto:
    if next(used.version for used in model.opset_import if used.domain in ("", "ai.onnx")) < _QDQ_OPSET:
        model = version_converter.convert_version(model, _QDQ_OPSET)
    own_biases(model.graph)
    marks = mark(model.graph, with_followers(model.graph, with_surrounded(model.graph, set(layers))))
    wanted = marks.measured()
    ranges = measure_ranges(model, wanted, _in_pieces(model.graph, calibration)) if calibration else made_up_ranges(model.graph, wanted)
    write_qdq(model.graph, marks, ranges, reduce_range=reduce_range)
    return model


def _in_pieces(graph: onnx.GraphProto, batches: Sequence[Feed]) -> Iterator[Feed]:
    """Yield the batches in the size that the file takes where that is fixed, else in pieces whose activations stay in the caches."""
    shapes = {value.name: [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    for batch in batches:
        shape = shapes[next(iter(batch))]
        whole = list(batch.values())
        for parts in pieces(whole, shape, items_at_a_time(whole)):
            yield dict(zip(batch, parts, strict=True))


def _dynamic_8_bits(model: onnx.ModelProto, nodes: Sequence[str], op: str, reduce_range: bool) -> onnx.ModelProto:
    """The runtime rounds what these nodes read, an LSTM's input step by step; for an LSTM it has no static kernel."""
    for name in [node.name for node in model.graph.node if node.op_type == "Gemm"]:
        _gemm_to_matmul(model.graph, name)  # the quantiser would do it to all of them, and rename them, whichever are asked for
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "quantised.onnx")
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=[op],
            nodes_to_quantize=list(nodes),
            per_channel=op != _LSTM,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def own_biases(graph: onnx.GraphProto) -> None:
    """Give each node a bias of its own: the quantiser rounds a bias by the scale of its first node's input, which is not the others'."""
    biases = {tensor.name: tensor for tensor in graph.initializer}
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type not in LAYER_OPS or len(node.input) < 3 or node.input[2] not in biases:
            continue
        name = node.input[2]
        if name in taken:
            twin = onnx.TensorProto()
            twin.CopyFrom(biases[name])
            twin.name = node.input[2] = f"{name}{CALL}{node.name}"
            graph.initializer.append(twin)
        taken.add(name)


def with_surrounded(graph: onnx.GraphProto, layers: set[str]) -> set[str]:
    """Return the layer nodes, and float convolutions and Gemms that read what is quantised and whose output is quantised at once.

    ONNX Runtime computes those in 8 bits whatever the file says, with one scale for all channels, which costs depthwise layers much
    accuracy; named here they have a scale for each. Source: onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc, and
    qdq_propagation.cc for what it moves Q and DQ across before.
    """
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_surrounded(node: onnx.NodeProto, quantised: Collection[str]) -> bool:
        before, behind = node.input[0], node.output[0]
        while before not in quantised and before in makers and makers[before].op_type in _CROSSED:
            before = makers[before].input[0]
        while behind not in quantised and len(read := readers.get(behind, [])) == 1 and read[0].op_type in ACTIVATIONS | _CROSSED:
            behind = read[0].output[0]
        return before in quantised and behind in quantised

    while True:
        quantised = mark(graph, with_followers(graph, layers)).activations
        others = (node for node in graph.node if node.op_type in ("Conv", "Gemm") and node.name not in layers and node.input[1] in floats)
        found = {node.name for node in others if is_surrounded(node, quantised)}
        if not found:
            return layers
        layers = layers | found


def with_followers(graph: onnx.GraphProto, layers: set[str]) -> list[str]:
    """Return the layer nodes, and the nodes between them that read quantised tensors alone, in graph order."""
    quantised: dict[str, onnx.NodeProto] = {}
    tensors: set[str] = set()
    constants = {tensor.name for tensor in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        reads = [name for name in node.input if name and name not in constants]
        joins = node.op_type in ACTIVATIONS | FOLLOWERS and bool(reads) and all(name in tensors for name in reads)
        if node.name in layers or joins:
            quantised[node.name] = node
            if node.op_type not in ("Gemm", "MatMul"):  # their outputs are float, see OpTypesToExcludeOutputQuantization
                tensors.update(node.output)
    wanted: set[str] = set()
    for node in reversed(list(quantised.values())):
        # an add or a pooling whose readers are all float gains nothing: it would only move the DQ behind it
        if node.op_type in FOLLOWERS and not wanted & set(node.output):
            del quantised[node.name]
        else:
            wanted.update(node.input)
    return list(quantised)


def _weights_to_4_bits(model: onnx.ModelProto, layers: Sequence[str]) -> onnx.ModelProto:
    for name in layers:
        _gemm_to_matmul(model.graph, name)
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # half a second that few trials need

        # `nodes_to_include` would add to all MatMuls, not choose among them
        others = [node.name for node in model.graph.node if node.name not in layers]
        quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=_INT4_BLOCK, is_symmetric=True, nodes_to_exclude=others)
        quantizer.process()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _gemm_to_matmul(graph: onnx.GraphProto, name: str) -> None:
    """The quantisers replace MatMul alone: rewrite Gemm(x, W, b) as Add(MatMul(x, W^T), b); one that also scales is left."""
    at, node = next((i, n) for i, n in enumerate(graph.node) if n.name == name)
    weight = next((tensor for tensor in graph.initializer if tensor.name == node.input[1]), None) if node.op_type == "Gemm" else None
    if weight is None:
        return
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if options.get("transA", 0) or {options.get("alpha", 1.0), options.get("beta", 1.0)} != {1.0}:
        return
    multiplied = weight.name
    if options.get("transB", 0):
        multiplied = f"{weight.name}_t"
        if all(tensor.name != multiplied for tensor in graph.initializer):  # else another call of the layer has put it there
            transposed = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            graph.initializer.append(numpy_helper.from_array(transposed, multiplied))
    has_bias = len(node.input) > 2
    product = f"{node.output[0]}_matmul" if has_bias else node.output[0]
    new = [onnx.helper.make_node("MatMul", [node.input[0], multiplied], [product], name=name)]
    if has_bias:
        new.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{name}/bias"))
    del graph.node[at]
    for offset, made in enumerate(new):
        graph.node.insert(at + offset, made)
    if all(weight.name not in other.input for other in graph.node):
        graph.initializer.remove(weight)


def _quiet() -> AbstractContextManager[None]:
    """The quantiser logs advice to the root logger at every call."""
    return quiet_logger(None, logging.ERROR)
