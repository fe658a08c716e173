"""A file that does not convert to PyTorch is run as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from paretopress.errors import ModelError
from paretopress.evaluators.macs import count_macs
from paretopress.graph import LayerKind, ModelGraph
from paretopress.intake.model_spec import load_model
from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx
from paretopress.onnx_graph import OnnxGraph, onnx_graph_in
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
