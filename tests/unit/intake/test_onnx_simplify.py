from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretopress.intake.onnx_simplify import inputs_of, simplified

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
MATRIX = RNG.normal(size=(4 * 36, 5)).astype(np.float32)


def file(batch: int | str, side: int | str = 8, *, constants: bool = False) -> onnx.ModelProto:
    """Return a convolution, an identity, a reshape that names the batch, and a product."""
    tensors = {"w": WEIGHT, "m": MATRIX, "shape": np.array([1 if batch == 1 else -1, 144], np.int64)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("MatMul", ["c", "m"], ["y"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    if constants:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in held] + nodes
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [] if constants else held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("batch", [1, "n"])
def test_simplified_takes_any_batch_and_computes_the_same(batch: int | str, constants: bool) -> None:
    model = file(batch, constants=constants)
    x = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)
    wanted = np.concatenate([run(model, part[None]) for part in x])
    np.testing.assert_allclose(run(simplified(model, {"x": (3, 8, 8)}), x), wanted, rtol=1e-4, atol=1e-4)


def test_simplified_holds_weights_as_initialisers_and_no_identity() -> None:
    made = simplified(file(1, constants=True), {})
    assert {node.op_type for node in made.graph.node} == {"Conv", "Reshape", "MatMul"}
    assert {"w", "m"} <= {tensor.name for tensor in made.graph.initializer}


def test_simplified_names_the_sizes_of_the_data() -> None:
    made = simplified(file("n", "side"), {"x": (3, 8, 8)})
    axes = made.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in axes] == ["batch", 3, 8, 8]


def test_simplified_leaves_the_file_as_it_is() -> None:
    model = file(1, constants=True)
    before = model.SerializeToString()
    simplified(model, {"x": (3, 8, 8)})
    assert model.SerializeToString() == before


def test_inputs_of_leaves_weights_out() -> None:
    model = file(1)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
    assert inputs_of(model) == ["x"]
