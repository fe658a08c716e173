"""Simplify an ONNX file before it is converted: sizes as those of the data, any batch, weights as initialisers, no identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

BATCH = "batch"
_IDENTITIES = frozenset({"Identity", "Dropout"})


def simplified(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return a copy of a file for items of these shapes, which takes any batch.

    Args:
        shapes: input -> the shape of one item, without the batch; an input that is not named keeps its sizes.
    Source: the ONNX operator specification: a 0 in the shape of a Reshape takes the size of the same axis.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    _constants_to_initialisers(graph)
    _drop_identities(graph)
    fixed = _fixed_batch(graph)
    _set_sizes(graph, shapes)
    if fixed is not None:
        _free_reshapes(graph, fixed)
    del graph.value_info[:]  # they name the sizes of before
    for output in graph.output:
        if output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(made)
    except Exception:  # a file whose shapes cannot be inferred runs all the same
        return made


def inputs_of(model: onnx.ModelProto) -> list[str]:
    """Return the names of the inputs, initialisers left out."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def _constants_to_initialisers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = _value_of(node)
        if value is not None:
            value.name = node.output[0]
            graph.initializer.append(value)
            graph.node.remove(node)


def _value_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a Constant holds, None for a sparse or a textual one."""
    for attribute in node.attribute:
        if attribute.name == "value":
            made = onnx.TensorProto()
            made.CopyFrom(attribute.t)
            return made
        kinds = {
            "value_float": (np.float32, "f"),
            "value_int": (np.int64, "i"),
            "value_floats": (np.float32, "floats"),
            "value_ints": (np.int64, "ints"),
        }
        if attribute.name in kinds:
            kind, field = kinds[attribute.name]
            held = getattr(attribute, field)
            return numpy_helper.from_array(np.array(list(held) if field.endswith("s") else held, kind))
    return None


def _drop_identities(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type in _IDENTITIES and node.output[0] not in outputs and len(node.output) == 1]:
        renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def _fixed_batch(graph: onnx.GraphProto) -> int | None:
    """Return the batch of the first input if it is a number."""
    axes = graph.input[0].type.tensor_type.shape.dim if graph.input else ()
    return axes[0].dim_value or None if axes and axes[0].HasField("dim_value") else None


def _set_sizes(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    for value in graph.input:
        item = shapes.get(value.name)
        if item is None:
            continue
        axes = value.type.tensor_type.shape.dim
        if len(axes) != len(item) + 1:
            continue  # the check of model and data tells it
        axes[0].Clear()
        axes[0].dim_param = BATCH
        for axis, size in zip(list(axes)[1:], item, strict=True):
            if not axis.dim_value:
                axis.Clear()
                axis.dim_value = size


def _free_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Let a reshape that begins with the number of the fixed batch take the batch that comes."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in weights:
            continue
        shape = numpy_helper.to_array(weights[node.input[1]]).copy()
        if (
            shape.ndim == 1
            and len(shape)
            and shape[0] == batch
            and not any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        ):
            shape[0] = 0
            name = f"{node.input[1]}_any_batch"
            if name not in weights:
                tensor = numpy_helper.from_array(shape, name)
                graph.initializer.append(tensor)
                weights[name] = tensor
            node.input[1] = name
