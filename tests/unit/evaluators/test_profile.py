"""The cost of layers in tiny files that are named as the TorchScript exporter names them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from paretopress.errors import LatencyError
from paretopress.evaluators import profile as module
from paretopress.evaluators.profile import LayerCost, layer_by_module_path, module_path, profile_onnx
from paretopress.targets.local import SessionSettings
from paretopress.targets.target import Feed

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


def _profile(path: Path, channels: int = 16) -> list[LayerCost]:
    feed = {"x": np.repeat(FEED["x"][:, :1], channels, axis=1)}
    return profile_onnx(path, settings=SessionSettings(), feed=feed, runs=5, layer_of=layer_by_module_path(LAYERS))


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


class ScriptedSession:
    """Writes a trace in which the first five runs are slow: the conv takes 500 us there and 20 us afterwards, the pool 10 us."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        self.events: list[dict[str, Any]] = []

    def run(self, outputs: None, feed: Feed) -> None:
        start = 1000 * len(self.events)
        conv_us = 500 if start < 5 * 4000 else 20
        for name, op, ts, dur in (("/stem/Conv", "Conv", 1, conv_us), ("/pool/Pool", "Pool", 600, 10)):
            args = {"op_name": op, "node_index": str(ts)}
            self.events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": start + ts, "dur": dur, "args": args})
        for name in ("SequentialExecutor::Execute", "model_run"):
            self.events.append({"cat": "Session", "name": name, "ts": start, "dur": 900, "args": {}})

    def end_profiling(self) -> str:
        self.trace.write_text(json.dumps(self.events))
        return str(self.trace)


def test_profile_onnx_counts_nodes_after_the_warm_up_when_the_first_runs_are_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ScriptedSession(tmp_path / "trace.json")
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)
    conv, pool = _profile(_write(tmp_path / "m.onnx"))
    assert (conv.layer, conv.node, conv.op) == ("stem", "/stem/Conv", "Conv")
    assert pool.layer is None
    assert (conv.latency_ms, pool.latency_ms) == pytest.approx((0.02, 0.01))
    assert (conv.share, pool.share) == pytest.approx((2 / 3, 1 / 3))


def test_profile_onnx_leaves_no_file_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "m.onnx")
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    _profile(path)
    assert list(folder.iterdir()) == []


def test_profile_onnx_raises_when_the_feed_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"must run its feed.*at m\.onnx"):
        _profile(_write(tmp_path / "m.onnx"), channels=3)


def test_profile_onnx_raises_when_no_run_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="runs=0"):
        profile_onnx(_write(tmp_path / "m.onnx"), settings=SessionSettings(), feed=FEED, runs=0, layer_of=lambda _: None)


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ("/stem/Conv", "stem"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer1/layer1.0/conv1/Conv_1", "layer1.0.conv1"),
        ("/features/features.1/conv/conv.0/conv.0.0/Conv", "features.1.conv.0.0"),
        ("/0/c1/Conv", "0.c1"),
        ("/Relu", ""),
        ("Reorder", ""),
    ],
)
def test_module_path_joins_the_scopes_when_containers_repeat(node: str, path: str) -> None:
    assert module_path(node) == path


@pytest.mark.parametrize(
    ("node", "layer"), [("/fc/Gemm", "fc"), ("/fc/fc.0/Gemm", "fc"), ("/fcx/Gemm", None), ("/layer1/layer1.0/conv10/Conv", None)]
)
def test_layer_by_module_path_takes_the_holder_when_a_layer_was_factorised(node: str, layer: str | None) -> None:
    assert layer_by_module_path(LAYERS)(node) == layer
