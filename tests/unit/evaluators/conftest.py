"""Quantised files written node by node, so that a test says exactly where each Q and DQ lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CHANNELS, UNSIGNED = 16, np.uint8(0)


class Network:
    """Grows a graph of (1, 16, 8, 8) tensors."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"k{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"t{len(self.nodes)}"], name=name, **attributes))
        return str(self.nodes[-1].output[0])

    def cast(self, x: str, zero_point: np.generic = UNSIGNED, scale: float = 0.05) -> str:
        """Put a Q and a DQ behind a tensor."""
        constants = (self.constant(np.float32(scale)), self.constant(zero_point))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *constants), *constants)

    def conv(self, x: str, name: str, weights: np.ndarray | None = None, *, groups: int = 1, int8: bool = False) -> str:
        """Add a 3x3 convolution; its weights are random if none are given, and without a zero."""
        if weights is None:
            drawn = np.random.default_rng(0).integers(1, 128, (CHANNELS, CHANNELS // groups, 3, 3))
            weights = drawn.astype(np.int8) if int8 else drawn.astype(np.float32) / 128
        tensor = self.constant(weights)
        if int8:
            tensor = self.op("DequantizeLinear", tensor, self.constant(np.float32(0.01)), self.constant(np.int8(0)))
        return self.op("Conv", x, tensor, name=name, pads=[1] * 4, group=groups)

    def model(self, y: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, 8, 8))
        graph = helper.make_graph(self.nodes, "small", [x], [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


Write = Callable[[Callable[[Network], str]], Path]


@pytest.fixture
def net() -> Network:
    return Network()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes the file of a network."""

    def written(grow: Callable[[Network], str]) -> Path:
        net, path = Network(), tmp_path / "m.onnx"
        onnx.save(net.model(grow(net)), path)
        return path

    return written
