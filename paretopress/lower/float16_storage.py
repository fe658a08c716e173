"""Store float weights in 16 bits: half the file and the same arithmetic, because the runtime widens them when it loads the file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# operators whose constants of two and more axes are weights; scales and zero-points of quantised layers stay as they are
_READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN"})
_LARGEST = float(np.finfo(np.float16).max)


def store_in_16_bits(graph: onnx.GraphProto) -> None:
    """Turn float32 weights into float16 ones behind a Cast, in place; one with a value that 16 bits cannot hold stays."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in [tensor for tensor in graph.initializer if _is_weight(tensor, readers)]:
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max(initial=0.0) > _LARGEST:
            continue
        stored = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_in_16_bits")
        cast = onnx.helper.make_node("Cast", [stored.name], [tensor.name], name=f"{tensor.name}_widened", to=TensorProto.FLOAT)
        graph.initializer.remove(tensor)
        graph.initializer.append(stored)
        graph.node.insert(0, cast)


def _is_weight(tensor: TensorProto, readers: Mapping[str, set[str]]) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1 and readers.get(tensor.name, {""}) <= _READERS
