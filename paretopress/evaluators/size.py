"""Size, identity and inputs of a file."""

from __future__ import annotations

from pathlib import Path

import onnx

from paretopress.targets.file_facts import file_facts

__all__ = ["file_facts", "input_shapes"]


def input_shapes(path: Path) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return (name, shape) of each input of an ONNX file; an axis of any size is None."""
    graph = onnx.load(path, load_external_data=False).graph
    return [(value.name, tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)) for value in graph.input]
