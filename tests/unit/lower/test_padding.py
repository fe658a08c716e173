"""Paddings that become paddings of the convolutions behind them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.lower.export import export_onnx
from paretopress.lower.padding import fold_paddings

IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Padded(nn.Module):
    """Convolutions behind paddings: of a side more than of the other, beside a padding of their own, of maps that two read."""

    def __init__(self) -> None:
        super().__init__()
        self.odd, self.deep = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 5, padding=1, groups=8)
        self.pad = nn.ZeroPad2d((1, 1, 0, 2))
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.odd(F.pad(x, (0, 1, 0, 1))))
        x = F.pad(F.relu6(self.deep(self.pad(x))), (2, 2, 2, 2))
        return self.left(x)[..., 2:-2, 2:-2] + self.right(x)


class Kept(nn.Module):
    """Paddings that are no zeros, or that something else reads, or of channels, or put out."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(4 if kind == "channels" else 3, 4, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.kind == "channels":
            return self.conv(F.pad(x, (1, 1, 1, 1, 0, 1)))
        if self.kind in ("ones", "reflected"):
            return self.conv(F.pad(x, (1, 1, 1, 1), value=1.0) if self.kind == "ones" else F.pad(x, (1, 1, 1, 1), mode="reflect"))
        padded = F.pad(x, (1, 1, 1, 1))
        return (self.conv(padded), padded) if self.kind == "put out" else self.conv(padded) + padded.mean()


def exported(module: nn.Module, path: Path, outputs: tuple[str, ...] = ("output",)) -> Counter[str]:
    torch.manual_seed(0)
    export_onnx(module.eval(), IMAGES, path, outputs=outputs)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_paddings_before_convolutions_are_theirs(tmp_path: Path) -> None:
    module = Padded()
    ops = exported(module, tmp_path / "padded.onnx")
    assert ops.keys() <= {"Conv", "Clip", "Slice", "Add", "Constant"}
    session = ort.InferenceSession(str(tmp_path / "padded.onnx"), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, {"input": IMAGES.numpy()})[0], module(IMAGES).numpy(), rtol=1e-4, atol=1e-5)
    nodes = onnx.load(tmp_path / "padded.onnx").graph.node
    pads = {node.name: list(part.ints) for node in nodes for part in node.attribute if part.name == "pads"}
    assert pads == {"odd": [0, 0, 1, 1], "deep": [1, 2, 3, 2], "left": [2, 2, 2, 2], "right": [2, 2, 2, 2]}


@pytest.mark.parametrize("kind", ["ones", "reflected", "channels", "read by others", "put out"])
def test_other_paddings_stay(tmp_path: Path, kind: str) -> None:
    ops = exported(Kept(kind), tmp_path / "kept.onnx", ("output", "padded") if kind == "put out" else ("output",))
    assert ops["Pad"] == 1


def test_what_computed_a_padding_goes_with_it_and_what_others_read_stays() -> None:
    nodes = [
        helper.make_node("Cast", ["sides"], ["pads"], to=TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "weight"], ["made"]),
        helper.make_node("Mul", ["made", "factor"], ["y"]),
    ]
    held = {
        "sides": np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int32),
        "weight": np.zeros((1, 1, 1, 1), np.float32),
        "factor": np.ones(1, np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "padded",
        [value("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [value("y", TensorProto.FLOAT, ["n", 1, "rows", "columns"])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    fold_paddings(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Mul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["weight", "factor"]
    onnx.checker.check_model(model)
