"""A file that does not convert to PyTorch is run as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from paretopress.core.model_graph import LayerKind, ModelGraph
from paretopress.errors import ModelError
from paretopress.evaluators.macs import count_macs
from paretopress.intake.conversion import faithful_conversion
from paretopress.intake.model_spec import load_model
from paretopress.intake.onnx_module import OnnxGraph, onnx_graph_in, timed_feed
from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.spaces.space import SearchSpace, SpaceOptions


@pytest.fixture
def odd(odd_file: Callable[[Path], Path], tmp_path: Path) -> OnnxGraph:
    pytest.importorskip("onnx2torch")
    model = load_model(odd_file(tmp_path).name, base=tmp_path)
    assert isinstance(model, OnnxGraph)
    return model


def test_take_in_finds_the_layers_of_a_file(odd: OnnxGraph, tiny: nn.Module, images: Tensor) -> None:
    intake = take_in(odd, images[:2])
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(images), tiny(images), rtol=1e-4, atol=1e-5)
    wanted = take_in(tiny, images[:2]).graph
    assert [(layer.kind, layer.macs, layer.out_channels, layer.output_shape) for layer in intake.graph.layers] == [
        (layer.kind, layer.macs, layer.out_channels, layer.output_shape) for layer in wanted.layers
    ]
    assert {layer.kind for layer in intake.graph.layers} >= {LayerKind.CONV, LayerKind.DEPTHWISE, LayerKind.LINEAR}
    assert "ThresholdedRelu" in intake.graph.frozen[0].reason
    assert ModelGraph.from_json(intake.graph.to_json()) == intake.graph
    assert count_macs(intake.module, images).macs == sum(layer.macs for layer in wanted.layers)


def test_search_space_of_a_file_offers_bits_alone(odd: OnnxGraph, images: Tensor) -> None:
    space = SearchSpace(take_in(odd, images[:2]).graph, SpaceOptions())
    searched = [variable.name for variable in space.variables if not variable.name.startswith("distill/")]
    assert searched
    assert all(name.startswith("bits/") for name in searched)


def test_export_onnx_writes_the_file_as_it_is(odd: OnnxGraph, images: Tensor, tmp_path: Path) -> None:
    module = copy.deepcopy(take_in(odd, images[:2]).module)
    export_onnx(module, images, tmp_path / "again.onnx")
    file = onnx_graph_in(module)
    assert file is not None
    assert (tmp_path / "again.onnx").read_bytes() == file.bytes() == odd.bytes()
    assert not any(node.op_type == "BatchNormalization" for node in file.model.graph.node)


def with_inputs(batch: int | str) -> onnx.ModelProto:
    """Return the sum of "a" and twice "b", and their product with a weight, with ThresholdedRelu."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in ("a", "b")]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    nodes = [
        helper.make_node("Mul", ["b", "two"], ["doubled"]),
        helper.make_node("Add", ["a", "doubled"], ["sum"]),
        helper.make_node("ThresholdedRelu", ["sum"], ["kept"], alpha=0.0),
        helper.make_node("MatMul", ["kept", "weight"], ["logits"]),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])
    graph = helper.make_graph(nodes, "two inputs", given, [logits], [weight, two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("batch", ["N", 1])
def test_inputs_go_by_their_names_in_whatever_order_the_data_gives_them(batch: int | str) -> None:
    model = OnnxGraph(with_inputs(batch), "for a test")
    a, b = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    intake = take_in(model, (b, a), ("b", "a"))
    assert [spec.name for spec in intake.graph.inputs] == ["b", "a"]
    with torch.inference_mode():
        assert intake.module(b, a).tolist() == [[4.0, 7.0], [2.0, 1.0]]
        assert model(a=a, b=b)[0].tolist() == [[4.0, 7.0], [2.0, 1.0]]
    (layer,) = intake.graph.layers
    assert (layer.name, layer.in_channels, layer.out_channels, layer.macs) == ("MatMul_0", 3, 2, 6)
    with pytest.raises(ModelError, match="the data must give what the file takes, a, b, but got a, c"):
        take_in(model, (a, b), ("a", "c"))


def convolutions(batch: int | str, channels: int = 16) -> onnx.ModelProto:
    """Return two convolutions, a mean over the map and a reshape that names the batch, (N, 1, 8, 8) -> (N, 3)."""
    numbers = np.random.default_rng(0)
    weights = {"first": (channels, 1, 3, 3), "second": (3, channels, 1, 1)}
    kept = [numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()]
    kept.append(numpy_helper.from_array(np.array([batch if isinstance(batch, int) else -1, 3]), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Conv", ["a", "second"], ["g"], name="c2"),
        helper.make_node("GlobalAveragePool", ["g"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "convolutions", [x], [y], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_file_of_fixed_batch_size_is_run_in_pieces_and_quantised(tmp_path: Path, batch: int) -> None:
    fixed, free = OnnxGraph(convolutions(batch), "for a test"), OnnxGraph(convolutions("N"), "for a test")
    x = torch.randn(6, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fixed(x)[0], free(x)[0])
    intake = take_in(fixed, x)
    assert [layer.macs for layer in intake.graph.layers] == [layer.macs for layer in take_in(free, x).graph.layers]
    feed = timed_feed(["x"], x[:4], intake.module)
    assert feed["x"].shape == (batch, 1, 8, 8)
    files = [tmp_path / f"{name}.onnx" for name in ("fixed", "fixed8", "free", "free8")]
    for file, source, target in ((fixed, files[0], files[1]), (free, files[2], files[3])):
        source.write_bytes(file.bytes())
        quantise_onnx(source, target, {"c1": 8, "c2": 8}, [{"x": x.numpy()}], reduce_range=True)
    rounded = [OnnxGraph(onnx.load(file), "for a test") for file in (files[1], files[3])]
    with torch.inference_mode():
        torch.testing.assert_close(rounded[0](x)[0], rounded[1](x)[0])


@pytest.mark.parametrize(("batch", "converts"), [("N", True), (1, True), (4, True)])
def test_conversion_that_computes_something_else_leaves_the_file_as_it_is(tmp_path: Path, batch: int | str, converts: bool) -> None:
    """A file of fixed batch size names it in its reshapes, of which it is freed."""
    pytest.importorskip("onnx2torch")
    onnx.save(convolutions(batch), tmp_path / "m.onnx")
    model = load_model("m.onnx", base=tmp_path)
    assert not isinstance(model, OnnxGraph)
    items = torch.randn(6, 1, 8, 8)
    found = faithful_conversion(model, tmp_path / "m.onnx", None, items)
    assert (found is model) is converts
    if isinstance(found, OnnxGraph):
        assert found(items)[0].shape == (6, 3)
        assert "the converted model" in take_in(found, items).graph.frozen[0].reason


def test_conversion_with_other_weights_is_found(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    onnx.save(convolutions("N"), tmp_path / "m.onnx")
    model = load_model("m.onnx", base=tmp_path)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    found = faithful_conversion(model, tmp_path / "m.onnx", None, torch.randn(6, 1, 8, 8))
    assert isinstance(found, OnnxGraph)
    assert "computes something else" in found.reason
