"""A tiny ONNX file, and a probe report worked out by hand, which the tests of several parts share."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from paretopress.targets.probe.probe_report import Finding, ProbeReport


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A file of y = x + x, x of shape ("batch", 3)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    path = tmp_path / "doubling.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture
def probe_report() -> ProbeReport:
    """Return a report in which int8 is 3x as fast as float, but depthwise 1.6x and 8 channels 1.3x slower, and 4 bits 2x slower."""
    ratios = {
        "int8/dense": 1 / 3,
        "int8/pointwise": 1 / 3,
        "int8/depthwise": 1.8,
        "int8/depthwise/inside": 1.6,
        "int8/linear": 1 / 3,
        "int8/stem": 1.0,
        "int8_width/8": 1.3,
        "int8_width/16": 1.05,
        "int8_width/32": 0.5,
        "int4/linear": 2.0,
    }
    return ProbeReport(
        fingerprint={
            "target": "local",
            "cpu": "Testor 3000",
            "machine": "x86_64",
            "isa": ["avx2"],
            "cores_logical": 2,
            "threads": 1,
            "onnxruntime": "1.31.0",
        },
        date="2026-11-22T07:00:00+00:00",
        duration_s=30.0,
        channel_step=16,
        reduce_range=True,
        noise_floor=0.01,
        timer_ns=40,
        fp32_peak_gmac_per_s=70.0,
        int8_peak_gmac_per_s=210.0,
        findings=tuple(Finding(key, key, "float", ratio, (0.99 * ratio, 1.01 * ratio)) for key, ratio in ratios.items()),
        failed={},
    )
