from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.prune.recurrent_units import least_important_units, silence_units
from paretopress.core.model_graph import INPUT, LayerKind
from paretopress.core.plan import Plan
from paretopress.intake.trace import Intake, take_in
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx


class Sequences(nn.Module):
    """Two recurrent layers in a row, the second of two layers itself; its last state is read: (N, 9, 5) -> (N, 3)."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.first = kind(8, 12, batch_first=True)
        self.second = kind(12, 16, num_layers=2, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.relu(self.embed(x)))[0]
        return self.fc(self.second(x)[0][:, -1])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[nn.LSTM, nn.GRU])
def intake(request: pytest.FixtureRequest, x: Tensor) -> Intake:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return take_in(Sequences(request.param).eval(), x)


def test_take_in_offers_the_hidden_width_of_recurrent_layers(intake: Intake) -> None:
    groups = {group.name: (group.channels, group.feeds) for group in intake.graph.channel_groups}
    assert groups["first"] == (12, ("second",))
    assert groups["second"] == (16, ("fc",))
    layer = intake.graph.layer("second")
    assert (layer.kind, layer.out_channels, layer.output_shape) == (LayerKind.RECURRENT, 16, (9, 16))


def test_compress_module_removes_units_as_if_they_were_silent(intake: Intake, x: Tensor) -> None:
    compressed = compress_module(intake.module, intake.graph, Plan(kept={"first": 8, "second": 4}))
    first, second = (compressed.module.get_submodule(name) for name in ("first", "second"))
    assert (first.hidden_size, second.input_size, second.hidden_size) == (8, 8, 4)
    silenced = copy.deepcopy(intake.module)
    for group in (group for group in intake.graph.channel_groups if group.name in ("first", "second")):
        left = compressed.kept.outputs[group.name]
        silence_units(silenced, group, [unit for unit in range(group.channels) if unit not in left])
    with torch.inference_mode():
        torch.testing.assert_close(compressed.module(x), silenced(x), rtol=1e-4, atol=1e-5)


def test_least_important_units_go_first(intake: Intake) -> None:
    (group,) = (group for group in intake.graph.channel_groups if group.name == "first")
    module = copy.deepcopy(intake.module)
    silence_units(module, group, [2, 7])
    assert least_important_units(module, group, 10) == [2, 7]


def test_pruned_recurrent_model_computes_the_same_in_onnx_and_near_in_int8(intake: Intake, x: Tensor, tmp_path: Path) -> None:
    module = compress_module(intake.module, intake.graph, Plan(kept={"second": 8})).module
    path, rounded = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export_onnx(module, x, path)
    kind = type(intake.module.get_submodule("first")).__name__
    assert [node.name for node in onnx.load(path).graph.node if node.op_type == kind][:2] == ["first", "second"]
    bits = {group.name: group.bits for group in intake.graph.bit_groups}
    if kind == "GRU":
        assert bits["first"] == (32,)
        return
    assert bits["first"] == (32, 8)
    quantise_onnx(path, rounded, {"first": 8, "second": 8, "fc": 8}, [{INPUT: x.numpy()}], reduce_range=False)
    operators = {node.op_type for node in onnx.load(rounded).graph.node}
    assert "DynamicQuantizeLSTM" in operators
    assert _types_of_weights(rounded, "fc") == {onnx.TensorProto.INT8}
    exact, near = (
        ort.InferenceSession(str(each), providers=["CPUExecutionProvider"]).run(None, {INPUT: x.numpy()})[0] for each in (path, rounded)
    )
    assert np.abs(near - exact).max() < 0.1 * np.ptp(exact)


def _types_of_weights(path: Path, layer: str) -> set[int]:
    """Return the types of the constants that a layer's node reads, through a DequantizeLinear as well."""
    graph = onnx.load(path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {types[name] for node in graph.node if node.name == layer for each in node.input if (name := behind.get(each, each)) in types}


class BothWays(nn.Module):
    """Two layers of two directions, read by one another, then by a Linear layer: (N, 9, 5) -> (N, 3). `states` reads the last states."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, *, states: bool = False, summed: bool = False) -> None:
        super().__init__()
        self.first = kind(5, 12, batch_first=True, bidirectional=True)
        self.second = kind(24, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8 if summed else 16, 3)
        self.states, self.summed = states, summed

    def forward(self, x: Tensor) -> Tensor:
        outputs, states = self.second(self.first(x)[0])
        if self.states:
            last = states[0] if isinstance(self.second, nn.LSTM) else states
            return self.fc(torch.cat([last[-2], last[-1]], dim=1))
        return self.fc(outputs[:, -1, :8] + outputs[:, -1, 8:] if self.summed else outputs.mean(1))


@pytest.mark.parametrize("states", [False, True], ids=["outputs", "states"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_units_of_two_directions_go_together(kind: type[nn.LSTM] | type[nn.GRU], x: Tensor, tmp_path: Path, *, states: bool) -> None:
    intake = take_in(BothWays(kind, states=states).eval(), x)
    assert [(group.name, group.channels, group.feeds) for group in intake.graph.channel_groups] == [
        ("first", 12, ("second",)),
        ("second", 8, ("fc",)),
    ]
    compressed = compress_module(intake.module, intake.graph, Plan(kept={"first": 8, "second": 4}))
    second, fc = compressed.module.get_submodule("second"), compressed.module.get_submodule("fc")
    assert (second.input_size, second.hidden_size, fc.in_features) == (16, 4, 8)
    silenced = copy.deepcopy(intake.module)
    for group in intake.graph.channel_groups:
        left = compressed.kept.outputs[group.name]
        silence_units(silenced, group, [unit for unit in range(group.channels) if unit not in left])
        assert compressed.kept.inputs[group.feeds[0]] == (*left, *(group.channels + unit for unit in left))
    with torch.inference_mode():
        torch.testing.assert_close(compressed.module(x), silenced(x), rtol=1e-4, atol=1e-5)
    path = tmp_path / "float.onnx"
    export_onnx(compressed.module, x, path)  # raises where the file computes anything else
    assert [node.name for node in onnx.load(path).graph.node if node.op_type == kind.__name__][:2] == ["first", "second"]


def test_take_in_leaves_the_width_alone_when_the_directions_are_summed(x: Tensor) -> None:
    assert [group.name for group in take_in(BothWays(summed=True).eval(), x).graph.channel_groups] == ["first"]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_take_in_leaves_the_width_alone_when_the_outputs_are_projected(x: Tensor) -> None:
    model = nn.Sequential(nn.LSTM(5, 6, proj_size=4, batch_first=True), LastOutput(), nn.Linear(4, 3))
    assert take_in(model.eval(), x).graph.channel_groups == ()


class LastOutput(nn.Module):
    def forward(self, x: tuple[Tensor, tuple[Tensor, Tensor]]) -> Tensor:
        return x[0][:, -1]
