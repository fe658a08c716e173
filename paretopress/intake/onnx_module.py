"""An ONNX file as a module: its layers can take other formats; nothing of it is pruned, factorised or trained."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper, version_converter
from torch import Tensor, fx, nn

from paretopress.core.model_graph import Layer, LayerKind, kind_of_conv
from paretopress.core.model_inputs import Inputs, arrays, feeds, fixed_batch, pieces, taken
from paretopress.errors import ModelError, first_line

OPSET = 17
_LEAST_OPSET = 13  # of weights with a scale per channel
_LAYER_OPS = frozenset({"Conv", "Gemm", "MatMul"})


class OnnxGraph(nn.Module):
    """A file's graph, batch norms folded by the runtime, every layer named; the bytes are a buffer, so that hashes and copies hold them."""

    def __init__(self, model: onnx.ModelProto, reason: str) -> None:
        """Take the graph; `reason` says why it is no PyTorch model. Raises: ModelError: the runtime does not run it."""
        super().__init__()
        folded = _folded(_of_known_opset(model))
        _name_layers(folded.graph)
        self.reason = reason
        self.register_buffer("content", torch.frombuffer(bytearray(folded.SerializeToString()), dtype=torch.uint8))
        self._session: ort.InferenceSession | None = None

    @property
    def model(self) -> onnx.ModelProto:
        """The graph."""
        return onnx.load_model_from_string(self.bytes())

    def bytes(self) -> bytes:
        """Return the file."""
        content: Tensor = self.get_buffer("content")
        return content.numpy().tobytes()

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        """Return the file's outputs for inputs in its order, or by its names; a file of fixed batch size is fed in pieces."""
        nodes = self.session().get_inputs()
        inputs = (*inputs, *(named[node.name] for node in nodes[len(inputs) :]))
        found = [self.session().run(None, feed) for feed in feeds([node.name for node in nodes], pieces(inputs, nodes[0].shape))]
        return tuple(torch.from_numpy(np.concatenate(parts)[: len(inputs[0])]) for parts in zip(*found, strict=True))

    def session(self) -> ort.InferenceSession:
        """Return a session of the file, the same at every call."""
        if self._session is None:
            self._session = ort.InferenceSession(self.bytes(), providers=["CPUExecutionProvider"])
        return self._session

    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of the inputs and of the outputs."""
        return [node.name for node in self.session().get_inputs()], [node.name for node in self.session().get_outputs()]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that shares the bytes, which never change."""
        copied = copy.copy(self)
        copied._session = None
        memo[id(self)] = copied
        return copied

    def traced(self, names: Sequence[str]) -> fx.GraphModule:
        """Return a traced module that takes the inputs of these names in this order; raises ModelError if they are not the file's."""
        inputs, outputs = self.names()
        if sorted(names) != sorted(inputs):
            raise ModelError(f"the data must give what the file takes, {', '.join(inputs)}, but got {', '.join(names)}")
        graph = fx.Graph()
        given = {name: graph.placeholder(f"input_{index}") for index, name in enumerate(names)}
        found = graph.call_module("file", tuple(given[name] for name in inputs))
        parts = tuple(graph.call_function(_part, (found, index)) for index in range(len(outputs)))
        graph.output(parts if len(parts) > 1 else parts[0])
        root = nn.Module()
        root.add_module("file", self)
        return fx.GraphModule(root, graph, "OnnxFile").eval()

    def layers(self, example: tuple[Tensor, ...]) -> tuple[Layer, ...]:
        """Return the convolutions and matrix products with weights of their own; `example` is a batch of inputs."""
        model = self.model
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        nodes = list(_layer_nodes(model.graph))
        one = next(pieces(tuple(part[:1] for part in example), self.session().get_inputs()[0].shape))
        shapes = _shapes(model, [node.output[0] for node in nodes], self.names()[0], one)
        return tuple(_describe(node, weights[node.input[1]], weights, shapes[node.output[0]]) for node in nodes)


def _part(values: tuple[Tensor, ...], index: int) -> Tensor:
    return values[index]


def onnx_graph_in(module: nn.Module) -> OnnxGraph | None:
    """Return the file that a traced module runs, None for a model of PyTorch's layers."""
    return next((part for part in module.children() if isinstance(part, OnnxGraph)), None)


def batch_size_of(module: nn.Module) -> int:
    """Return the batch in which a model is timed: that of its file where it is fixed, else 1."""
    file = onnx_graph_in(module)
    return 1 if file is None else fixed_batch(file.session().get_inputs()[0].shape) or 1


def timed_feed(names: Sequence[str], example: Inputs, module: nn.Module) -> dict[str, np.ndarray]:
    """Return what is timed: one item, or as many as the model's file takes at a time; they repeat where the example holds fewer."""
    batch = batch_size_of(module)
    return dict(zip(names, next(pieces(arrays(taken(example, batch)), (batch,))), strict=True))


def _of_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version >= _LEAST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's errors share no base class
        raise ModelError(f"the file must be of opset {_LEAST_OPSET} or newer, but got {version}: {first_line(error)}") from error


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph as the runtime simplifies it without changing its operators: constants and batch norms are folded."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        target = Path(folder, "folded.onnx")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base class
            raise ModelError(f"the file must run in ONNX Runtime, but got {first_line(error)}") from error
        return onnx.load(target)


def _layer_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    axes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        weight = axes.get(node.input[1], 0) if node.op_type in _LAYER_OPS and len(node.input) > 1 else 0
        if weight == 2 or (weight > 2 and node.op_type == "Conv"):
            yield node


def _name_layers(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for number, node in enumerate(_layer_nodes(graph)):
        name = (node.name or f"{node.op_type}_{number}").strip("/").replace("/", ".")
        node.name = name if name not in taken else f"{name}_{number}"
        taken.add(node.name)


def _shapes(model: onnx.ModelProto, tensors: list[str], inputs: list[str], example: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that tensors inside the graph have for one input."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in known)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    (feed,) = feeds(inputs, [example])
    return dict(zip(tensors, (value.shape for value in session.run(tensors, feed)), strict=True))


def _describe(node: onnx.NodeProto, weight: np.ndarray, weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> Layer:
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    biases = weights[node.input[2]].size if len(node.input) > 2 and node.input[2] in weights else 0
    params = int(weight.size) + int(biases)
    if node.op_type != "Conv":
        outputs, features = weight.shape[::-1] if not given.get("transB") else weight.shape
        macs = math.prod(shape[1:-1]) * int(weight.size)
        return Layer(node.name, LayerKind.LINEAR, int(features), int(outputs), (1, 1), (1, 1), 1, macs, params, tuple(shape[1:]))
    groups, (outputs, inputs) = int(given.get("group", 1)), weight.shape[:2]
    kernel = tuple(int(edge) for edge in weight.shape[2:])
    stride = tuple(given.get("strides", [1] * len(kernel)))
    kind, macs = kind_of_conv(groups, inputs * groups, outputs), math.prod(shape[2:]) * int(weight.size)
    return Layer(node.name, kind, int(inputs * groups), int(outputs), kernel, stride, groups, macs, params, tuple(shape[1:]))
