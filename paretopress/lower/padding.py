"""Paddings that stand before convolutions become paddings of theirs, so that a quantised file has no float operator between the two.

Networks that come from TensorFlow pad each side by another number, which a layer of torch cannot say and an ONNX convolution can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Integers = npt.NDArray[np.int64]


def fold_paddings(model: onnx.ModelProto) -> None:
    """Take out each Pad with zeros of maps that convolutions alone read; they pad by as much more. What is not read then goes, too.

    Source: the ONNX operator specification: `pads` are the begins of all axes, then their ends; a convolution's are without those of the
    items and channels.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        convolutions = readers.get(pad.output[0], [])
        if pad.output[0] in outputs or not convolutions or not all(_takes(node, pad.output[0]) for node in convolutions):
            continue
        sides = _sides(model, pad)
        if sides is None:
            continue
        for node in convolutions:
            own = next((list(part.ints) for part in node.attribute if part.name == "pads"), [0] * len(sides))
            kept = [part for part in node.attribute if part.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", [mine + more for mine, more in zip(own, sides, strict=True)])])
            node.input[0] = pad.input[0]
        readers[pad.input[0]] += convolutions
        graph.node.remove(pad)
    _drop_unread(graph)


def _sides(model: onnx.ModelProto, pad: onnx.NodeProto) -> list[int] | None:
    """Return by how much a Pad pads the axes of maps, begins first; None if it does something else than add zeros there."""
    mode = next((part.s for part in pad.attribute if part.name == "mode"), b"constant")
    names = [name for name in pad.input[1:] if name]
    if mode != b"constant" or not names or len(pad.input) > 3:
        return None
    values = [_constant(model, name) for name in names]
    if any(value is None for value in values) or any(value is not None and value.any() for value in values[1:]):
        return None
    pads = np.asarray(values[0]).tolist()
    begins, ends = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    return None if any((*begins[:2], *ends[:2])) or min(pads) < 0 else [*begins[2:], *ends[2:]]


def _constant(model: onnx.ModelProto, name: str) -> Integers | None:
    """Return the value of a tensor that is computed from constants alone, None of another. The exporter writes paddings as such."""
    makers = {output: node for node in model.graph.node for output in node.output}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    if name in held:
        return numpy_helper.to_array(held[name])
    needed, waiting = dict[str, onnx.NodeProto](), [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in needed or wanted in held or not wanted:
            continue
        if wanted not in makers:
            return None
        needed[wanted] = makers[wanted]
        waiting.extend(makers[wanted].input)
    nodes = [node for node in model.graph.node if any(output in needed for output in node.output)]
    value = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
    read = {source for node in nodes for source in node.input}
    graph = helper.make_graph(nodes, "constant", [], [value], [held[source] for source in held if source in read])
    (found,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)).run(None, {})
    return np.asarray(found)


def _takes(node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node is a convolution that reads the tensor as its maps alone, and names its own padding."""
    plain = not any(part.name == "auto_pad" and part.s != b"NOTSET" for part in node.attribute)
    return node.op_type == "Conv" and plain and node.input[0] == name and name not in list(node.input)[1:]


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and initialisers that nothing reads."""
    outputs = {value.name for value in graph.output}
    read = _read(graph.node) | outputs
    while unread := [node for node in graph.node if not any(name in read for name in node.output)]:
        for node in unread:
            graph.node.remove(node)
        read = _read(graph.node) | outputs
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Return the names of what nodes read, those inside of loops and branches too."""
    found = {name for node in nodes for name in node.input}
    for node in nodes:
        for part in node.attribute:
            if part.type == onnx.AttributeProto.GRAPH:
                found |= _read(part.g.node) | {value.name for value in part.g.output}
    return found
