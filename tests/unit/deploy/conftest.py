"""A linear classifier as an ONNX file whose outputs can be worked out by hand, its facts, and ways to forge a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretopress.deploy import bundle_run
from paretopress.deploy.bundle import BundleFacts, write_bundle

Array = np.ndarray[Any, Any]


def linear_model(path: Path, batch: int | str = "N", dtype: int = TensorProto.FLOAT) -> Path:
    """Write (N, 1, 2, 2) -> flatten -> scores (N, 3); class k scores twice pixel k, the fourth pixel does not count."""
    weights = 2 * np.eye(4, 3, dtype=helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [helper.make_node("Flatten", ["x"], ["flat"], axis=1), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", dtype, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("scores", dtype, [batch, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def pixel_model(path: Path) -> Path:
    """Write (N, 1, H, W) -> scores (N, 3, H, W) of pixels: 1 - x, x and x - 1, so that class 0 is highest up to 0.5, else class 1."""
    weights = np.array([-1.0, 1.0, 1.0], dtype=np.float32).reshape(3, 1, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["scores"])],
        "pixels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1.0, 0.0, -1.0], dtype=np.float32), "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def make_pixel_model(tmp_path: Path) -> Callable[[], Path]:
    """Return a function that writes the model of pixels."""
    return lambda: pixel_model(tmp_path / "measured.onnx")


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the linear model; its keywords are those of `linear_model`."""
    return lambda **options: linear_model(tmp_path / "measured.onnx", **options)


@pytest.fixture
def make_facts() -> Callable[..., BundleFacts]:
    """Return a function that makes facts, with its keywords replacing the defaults."""

    def facts(**changed: Any) -> BundleFacts:
        values: dict[str, Any] = {
            "title": "tiny",
            "classes": ("cat", "dog", "owl"),
            "preprocessing": {"scale": 255},
            "measurements": {"latency": {"latency_ms": 1.25}, "test_accuracy": 91.5},
            "conditions": {"cpu": "a test", "batch": 1},
            "plan": {"schema": 1, "bits": {"conv1": 8}},
            "session_options": {"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        }
        return BundleFacts(**{**values, **changed})

    return facts


@pytest.fixture
def samples() -> Array:
    """Return (10, 1, 2, 2) float32: sample i has 1.0 at pixel i % 3."""
    array = np.zeros((10, 4), dtype=np.float32)
    array[np.arange(10), np.arange(10) % 3] = 1.0
    return array.reshape(10, 1, 2, 2)


@pytest.fixture
def sha256() -> Callable[[Path], str]:
    """Return a function that hashes a file, independent of the package's own."""
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def write(
    tmp_path: Path, make_model: Callable[..., Path], make_facts: Callable[..., BundleFacts], samples: Array, sha256: Callable[[Path], str]
) -> Callable[..., Path]:
    """Return a function that writes a bundle of the linear model, with its keywords replacing the arguments of `write_bundle`."""

    def written(**changed: Any) -> Path:
        model = changed.pop("onnx", None) or make_model()
        arguments = {"sha256": sha256(model), "facts": make_facts(), "samples": samples, **changed}
        return write_bundle(arguments.pop("to", tmp_path / "out" / "bundle"), onnx=model, **arguments)

    return written


@pytest.fixture
def bundle(write: Callable[..., Path]) -> Path:
    """Return a written bundle."""
    return write()


@pytest.fixture
def reseal() -> Callable[..., None]:
    """Return a function that changes manifest keys and makes every hash fit again, as a forger or a faulty writer would."""

    def resealed(folder: Path, **changed: Any) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest.update(changed)
        for name in bundle_run.FILES:
            manifest["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        manifest["manifest_sha256"] = bundle_run.manifest_digest(manifest)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return resealed


@pytest.fixture
def alter_expected(reseal: Callable[..., None]) -> Callable[..., None]:
    """Return a function that replaces the recorded outputs of a bundle by what `change` makes of them, with fitting hashes."""

    def altered(folder: Path, change: Callable[[Array], Array]) -> None:
        with np.load(folder / "selfcheck.npz") as arrays:
            inputs, expected = arrays["input_0"], arrays["expected_0"]
        np.savez(folder / "selfcheck.npz", input_0=inputs, expected_0=change(expected))
        reseal(folder)

    return altered
