"""The cost of layers in tiny files that are named as the TorchScript exporter names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from paretopress.evaluators import profile as module
from paretopress.evaluators.node_overhead import NodeOverhead
from paretopress.evaluators.profile import LayerCost, Origins, layer_by_module_path, module_path, profile_onnx
from paretopress.evaluators.runtime_trace import NodeTime, Trace
from paretopress.runtimes.runtime import SessionSettings

SETTINGS = SessionSettings()
LAYERS = ("stem", "layer1.0.conv1", "fc")
FEED = {"x": np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)}


def _initialisers(channels: int) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)
    shapes = {"w0": (channels, channels, 3, 3), "w1": (channels, channels, 3, 3), "w2": (10, channels)}
    return [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]


def _write(path: Path, channels: int = 16) -> Path:
    """Write stem conv -> relu -> conv -> add -> relu -> pool -> flatten -> linear -> relu."""
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["/stem/Conv_output_0"], name="/stem/Conv", **pads),
        helper.make_node("Relu", ["/stem/Conv_output_0"], ["/Relu_output_0"], name="/Relu"),
        helper.make_node("Conv", ["/Relu_output_0", "w1"], ["c1"], name="/layer1/layer1.0/conv1/Conv", **pads),
        helper.make_node("Add", ["c1", "/Relu_output_0"], ["sum"], name="/layer1/layer1.0/Add"),
        helper.make_node("Relu", ["sum"], ["r"], name="/layer1/layer1.0/Relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="/pool/GlobalAveragePool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/Flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["g"], name="/fc/Gemm", transB=1),
        helper.make_node("Relu", ["g"], ["y"], name="/Relu_1"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "tiny", [x], [y], _initialisers(channels))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


class Calibration(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
    def __init__(self) -> None:
        self.left = [FEED]

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return self.left.pop() if self.left else None


def _profile(path: Path, channels: int = 16) -> Sequence[LayerCost]:
    feed = {"x": np.repeat(FEED["x"][:, :1], channels, axis=1)}
    layer_of = layer_by_module_path(LAYERS)
    return profile_onnx(path, settings=SETTINGS, feed=feed, layer_of=layer_of, runs=5).costs


def _layers(costs: Sequence[LayerCost]) -> list[str]:
    return [cost.layer for cost in costs if cost.layer is not None]


@pytest.mark.parametrize("channels", [16, 15], ids=["blocked", "plain"])
def test_profile_onnx_finds_each_layer_once_when_nodes_are_fused(tmp_path: Path, channels: int) -> None:
    costs = _profile(_write(tmp_path / "m.onnx", channels), channels)
    assert _layers(costs) == list(LAYERS)
    assert any(cost.layer is None and "Pool" in cost.op for cost in costs)
    assert sum(cost.share for cost in costs) == pytest.approx(1.0)
    whole = sum(cost.latency_ms for cost in costs)
    assert whole > 0.0
    assert [cost.share for cost in costs] == pytest.approx([cost.latency_ms / whole for cost in costs])


def test_profile_onnx_finds_each_layer_once_when_the_file_is_quantised(tmp_path: Path) -> None:
    source, path = _write(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(source), str(path), Calibration(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    costs = _profile(path)
    assert _layers(costs) == list(LAYERS)
    assert any(cost.op == "QuantizeLinear" and cost.layer is None for cost in costs)


def test_profile_onnx_takes_the_profilers_own_cost_off_when_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (NodeTime("/stem/Conv", "Conv", "0", 0.024, tensors=4), NodeTime("/pool/Pool", "AveragePool", "1", 0.012, tensors=2))
    overhead = NodeOverhead(floor_ms=0.001, node_ms=0.002, tensor_ms=0.0005)
    monkeypatch.setattr(module, "trace_with_overhead", lambda *_, **__: (Trace(nodes, 0.035), overhead))
    profile = profile_onnx(_write(tmp_path / "m.onnx"), settings=SETTINGS, feed=FEED, layer_of=layer_by_module_path(LAYERS))
    conv, pool = profile.costs
    assert (conv.layer, conv.node, conv.op) == ("stem", "/stem/Conv", "Conv")
    assert pool.layer is None
    # 24 - 2 - 4 * 0.5 and 12 - 2 - 2 * 0.5 us
    assert (conv.latency_ms, pool.latency_ms) == pytest.approx((0.020, 0.009))
    assert (conv.share, pool.share) == pytest.approx((20 / 29, 9 / 29))
    assert (profile.sum_ms, profile.raw_sum_ms, profile.whole_ms) == pytest.approx((0.029, 0.036, 0.035))


def test_profile_onnx_finds_both_branches_of_an_add(tmp_path: Path) -> None:
    """The optimiser fuses the add into one of the two and names that one by the add's output."""
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["left"], name="left", **pads),
        helper.make_node("Conv", ["x", "w1"], ["right"], name="right", **pads),
        helper.make_node("Add", ["left", "right"], ["sum"], name="/Add"),
        helper.make_node("Relu", ["sum"], ["y"], name="/Relu"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16, 8, 8]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "branches", [x], [y], _initialisers(16)[:2])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    layer_of = layer_by_module_path(["left", "right"])
    profile = profile_onnx(tmp_path / "m.onnx", settings=SETTINGS, feed=FEED, layer_of=layer_of, runs=5)
    assert sorted(_layers(profile.costs)) == ["left", "right"]


@pytest.mark.parametrize(("names", "found"), [(["left_nchwc", "y_nchwc"], ["left", "right"]), (["sum_nchwc", "right"], ["left", "right"])])
def test_origins_finds_the_layer_of_a_node_named_by_the_add(names: list[str], found: list[str]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["left"], name="left"),
        helper.make_node("Conv", ["x", "w1"], ["right"], name="right"),
        helper.make_node("Add", ["left", "right"], ["sum"], name="/Add"),
        helper.make_node("Relu", ["sum"], ["y"], name="/Relu"),
    ]
    origins = Origins(helper.make_graph(nodes, "branches", [], [])).nodes(names)
    assert [origin.name for origin in origins if origin is not None] == found


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ("/stem/Conv", "stem"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer1/layer1.0/conv1/Conv_1", "layer1.0.conv1"),
        ("/features/features.1/conv/conv.0/conv.0.0/Conv", "features.1.conv.0.0"),
        ("/0/c1/Conv", "0.c1"),
        ("/Relu", ""),
        ("Reorder", "Reorder"),
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("layer1.0.conv1#7", "layer1.0.conv1"),
    ],
)
def test_module_path_joins_the_scopes_when_containers_repeat(node: str, path: str) -> None:
    assert module_path(node) == path


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("/fc/Gemm", "fc"),
        ("fc.0", "fc"),
        ("fc#3", "fc"),
        ("/fc/fc.0/Gemm", "fc"),
        ("/fcx/Gemm", None),
        ("/layer1/layer1.0/conv10/Conv", None),
    ],
)
def test_layer_by_module_path_takes_the_holder_when_a_layer_was_factorised(node: str, layer: str | None) -> None:
    assert layer_by_module_path(LAYERS)(node) == layer
