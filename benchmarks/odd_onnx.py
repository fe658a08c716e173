"""An ONNX file that onnx2torch cannot convert, and that computes the same."""

from __future__ import annotations

from pathlib import Path

import onnx


def make_odd(path: Path) -> None:
    """Put ThresholdedRelu with threshold 0 in place of every Relu of a file."""
    model = onnx.load(path)
    for node in (node for node in model.graph.node if node.op_type == "Relu"):
        node.op_type = "ThresholdedRelu"
        node.attribute.append(onnx.helper.make_attribute("alpha", 0.0))
    onnx.save(model, path)
