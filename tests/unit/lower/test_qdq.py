"""Quantisation that is written into the graph, against ONNX Runtime's own quantiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from quantiser import by_onnx_runtime, wiring
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.lower.export import CALL, export_onnx
from paretopress.lower.qdq import Marks, mark, measure_ranges, signed_scales, unsigned_scale, write_qdq
from paretopress.lower.quantise import own_biases, quantise_onnx, with_followers


class Mixed(nn.Module):
    """Convolutions with ReLU, ReLU6, a sum, poolings, a concatenation and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.deep, self.back = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False), nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        wide = F.relu6(self.wide(x))
        x = x + self.back(F.relu6(self.deep(wide)))
        return self.fc(torch.cat([x.mean((2, 3)), F.adaptive_avg_pool2d(wide, 1).flatten(1)], dim=1))


class ReadTwice(nn.Module):
    """A convolution that is put out and read by a ReLU, and a ReLU's input that another reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        second = self.second(torch.relu(first))
        return first, self.third(second) + self.third(torch.relu(second))


class Tokens(nn.Module):
    """Linear layers on rows of tokens, one of which reads a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(8, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)[:, :, :96].reshape(-1, 8, 36)[..., :12]
        return self.out(F.gelu(self.query(tokens) @ self.key(tokens).transpose(1, 2)))


def by_us(path: Path, nodes: list[str], batches: list[dict[str, Any]], reduce_range: bool) -> onnx.ModelProto:
    model = onnx.load(path)
    marks = mark(model.graph, nodes)
    write_qdq(model.graph, marks, measure_ranges(model, marks.measured(), batches), reduce_range=reduce_range)
    onnx.checker.check_model(model)
    return model


def differences(ours: onnx.ModelProto, theirs: onnx.ModelProto, batch: dict[str, Any]) -> list[str]:
    """Return in what two files differ: their graphs, rounded weights, and scales and outputs by more than float's last bits."""
    found = [] if wiring(ours) == wiring(theirs) else ["graph"]
    mine, other = ({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in (ours, theirs))
    found += sorted(mine.keys() ^ other.keys())
    for name in mine.keys() & other.keys():
        one, another = (array.ravel().astype(np.float64) for array in (mine[name], other[name]))
        if one.shape != another.shape or not np.allclose(one, another, rtol=2e-6, atol=0.0):
            found.append(name)
    outputs = (ort.InferenceSession(model.SerializeToString()).run(None, batch) for model in (ours, theirs))
    for place, (one, another) in enumerate(zip(*outputs, strict=True)):
        # a scale that differs in its last bit moves a value to the next step here and there
        if not np.allclose(one, another, rtol=1e-7, atol=0.02 * np.abs(another).max()):
            found.append(f"output {place}")
    return found


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("share", ["all", "some"])
@pytest.mark.parametrize("network", [Mixed, ReadTwice, Tokens])
def test_write_qdq_makes_what_onnx_runtimes_quantiser_makes(
    network: Callable[[], nn.Module], share: str, reduce_range: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, images = network().eval(), torch.randn(6, 3, 8, 8)
    export_onnx(module, images, tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    graph = model.graph
    own_biases(graph)
    onnx.save(model, tmp_path / "float.onnx")
    layers = [node.name for node in graph.node if node.name.split(CALL)[0] in dict(module.named_modules())]
    nodes = with_followers(graph, set(layers if share == "all" else layers[::2]))
    batches = [{graph.input[0].name: part.numpy()} for part in images.split(3)]
    theirs, _ = by_onnx_runtime(tmp_path / "float.onnx", nodes, batches, reduce_range=reduce_range)
    assert differences(by_us(tmp_path / "float.onnx", nodes, batches, reduce_range), theirs, batches[0]) == []


def file_of(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], path: Path) -> Path:
    """Write a file that reads "x" (N, 4) and puts out "y"."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "small", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("bias", [0.1, 1e9], ids=["plain", "overflows"])
def test_write_qdq_rounds_a_bias_as_onnx_runtime_does(beta: float, bias: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 4)).astype(np.float32), "b": (bias * rng.standard_normal(4)).astype(np.float32)}
    path = file_of([helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", beta=beta, transB=1)], arrays, tmp_path / "float.onnx")
    batches = [{"x": rng.standard_normal((5, 4)).astype(np.float32)}]
    theirs, _ = by_onnx_runtime(path, ["fc"], batches, reduce_range=False)
    assert differences(by_us(path, ["fc"], batches, False), theirs, batches[0]) == []


def test_write_qdq_rounds_a_constant_that_is_added(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"c": rng.standard_normal(4).astype(np.float32)}
    path = file_of([helper.make_node("Add", ["x", "c"], ["y"], "plus")], arrays, tmp_path / "float.onnx")
    batches = [{"x": rng.standard_normal((5, 4)).astype(np.float32)}]
    for reduce_range in (False, True):
        theirs, _ = by_onnx_runtime(path, ["plus"], batches, reduce_range=reduce_range)
        assert differences(by_us(path, ["plus"], batches, reduce_range), theirs, batches[0]) == []


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_quantise_onnx_takes_files_of_old_opsets(opset: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, None, None]) for name in ("x", "y"))
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    graph = helper.make_graph(nodes, "old", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), tmp_path / "float.onnx")
    feed = {"x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32)}
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", {"conv": 8}, [feed], reduce_range=False)
    found, wanted = (ort.InferenceSession(tmp_path / name).run(None, feed)[0] for name in ("int8.onnx", "float.onnx"))
    assert 0.0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_quantise_onnx_makes_ranges_up_without_calibration(tmp_path: Path) -> None:
    module, images = Mixed().eval(), torch.randn(2, 3, 8, 8)
    export_onnx(module, images, tmp_path / "float.onnx")
    for name, batches in (("timed", []), ("whole", [{"input": images.numpy()}])):
        quantise_onnx(tmp_path / "float.onnx", tmp_path / f"{name}.onnx", {"stem": 8, "fc": 8}, batches, reduce_range=False)
    timed, whole = (onnx.load(tmp_path / f"{name}.onnx") for name in ("timed", "whole"))
    assert wiring(timed) == wiring(whole)


def test_unsigned_scale_holds_zero_and_refuses_what_is_not_finite() -> None:
    scale, zero = unsigned_scale(0.5, 2.55)
    assert (float(scale), int(zero)) == (pytest.approx(0.01), 0)
    scale, zero = unsigned_scale(-1.0, 1.55)
    assert (float(scale), int(zero)) == (pytest.approx(0.01), 100)
    assert [float(part) for part in unsigned_scale(0.0, 0.0)] == [1.0, 0.0]
    with pytest.raises(ValueError, match="must be finite"):
        unsigned_scale(0.0, float("inf"))


def test_signed_scales_are_one_for_each_channel_of_the_axis() -> None:
    values = np.array([[1.27, -0.5], [0.0, 0.0], [2.54, -1.0]], np.float32)
    assert signed_scales(values, 0, reduce_range=False) == pytest.approx([0.01, 1.0, 0.02])
    assert signed_scales(values, 1, reduce_range=True) == pytest.approx([2.54 / 64, 1.0 / 64])


def test_mark_leaves_an_activation_whose_input_is_float(tmp_path: Path) -> None:
    path = file_of([helper.make_node("Relu", ["x"], ["y"], "relu")], {}, tmp_path / "float.onnx")
    assert mark(onnx.load(path).graph, ["relu"]) == Marks()


class Between(nn.Module):
    """Two convolutions of 8 bits, and between them a float one for each channel with an activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.deep, self.last = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 8, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.max_pool2d(self.activation(self.deep(self.activation(self.first(x)))), 2))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 4.0), nn.Hardswish(), nn.Sigmoid(), nn.GELU()], ids=repr)
def test_a_file_that_is_only_timed_has_the_same_operators_in_the_runtime(tmp_path: Path, activation: nn.Module) -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 4.0
    torch.manual_seed(0)
    export_onnx(Between(activation).eval(), images, tmp_path / "float.onnx")
    found = []
    for name, batches in (("timed", []), ("whole", [{"input": images.numpy()}])):
        quantise_onnx(tmp_path / "float.onnx", tmp_path / f"{name}.onnx", {"first": 8, "last": 8}, batches, reduce_range=False)
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}_optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(tmp_path / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        found.append(sorted(node.op_type for node in onnx.load(tmp_path / f"{name}_optimised.onnx").graph.node))
    assert found[0] == found[1]


def test_what_the_runtime_would_round_as_a_whole_is_rounded_by_channel(tmp_path: Path) -> None:
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = Between(nn.ReLU6()).eval()
    with torch.no_grad():
        module.deep.weight *= torch.logspace(-2.0, 1.0, 32).view(-1, 1, 1, 1)  # one scale for all would leave nothing of the smallest
    export_onnx(module, images, tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", {"first": 8, "last": 8}, [{"input": images.numpy()}], reduce_range=False)
    made = onnx.load(tmp_path / "int8.onnx")
    scales = {tensor.name: tensor.dims for tensor in made.graph.initializer if tensor.name.endswith("scale")}
    assert list(scales["deep.weight_scale"]) == [32]


@pytest.mark.parametrize("kind", ["read by a float sum", "behind a float layer"])
def test_a_float_convolution_that_the_runtime_leaves_stays_float(tmp_path: Path, kind: str) -> None:
    class Beside(Between):
        def forward(self, x: Tensor) -> Tensor:
            first = self.activation(self.first(x))
            if kind == "behind a float layer":
                first = torch.sin(first)
            deep = self.deep(first)
            return self.last(self.activation(deep)) + (torch.sin(deep).mean() if kind == "read by a float sum" else 0.0)

    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    export_onnx(Beside(nn.ReLU6()).eval(), images, tmp_path / "float.onnx")
    quantise_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", {"first": 8, "last": 8}, [{"input": images.numpy()}], reduce_range=False)
    made = onnx.load(tmp_path / "int8.onnx")
    floats = {tensor.name for tensor in made.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    (weight,) = (node.input[1] for node in made.graph.node if node.name == "deep")
    assert weight in floats
