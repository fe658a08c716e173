"""A bundle in a fresh environment that holds numpy and onnxruntime and nothing of paretopress."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretopress.deploy.bundle import BundleFacts, write_bundle

INSTALL_TIMEOUT_S = 900
pytestmark = pytest.mark.slow  # 20 s, of which pip takes nearly all


def small_cnn(path: Path) -> Path:
    """Write conv 3x3 (1 -> 8) -> ReLU -> mean -> linear (8 -> 3) for (N, 1, 8, 8) with fixed random weights."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (8, 1, 3, 3), "weights": (8, 3)}
    tensors = [numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "weights"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a written bundle."""
    folder = tmp_path_factory.mktemp("written")
    model = small_cnn(folder / "measured.onnx")
    facts = BundleFacts(
        title="alone",
        classes=("cat", "dog", "owl"),
        preprocessing={},
        measurements={"latency_ms": 1.0},
        conditions={"batch": 1},
        plan={"schema": 1},
        session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    )
    samples = np.random.default_rng(1).standard_normal((40, 1, 8, 8)).astype(np.float32)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return write_bundle(folder / "bundle", onnx=model, sha256=digest, facts=facts, samples=samples)


@pytest.fixture(scope="module")
def lonely_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with numpy and onnxruntime alone."""
    folder = tmp_path_factory.mktemp("alone") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_TIMEOUT_S)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"]
    subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), "-I", *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("module", ["torch", "paretopress", "onnx"])
def test_lonely_python_lacks_the_module_when_only_the_bundles_needs_are_installed(lonely_python: Path, module: str) -> None:
    done = run(lonely_python, "-c", f"import {module}")
    assert done.returncode == 1
    assert f"No module named '{module}'" in done.stderr


def test_run_check_passes_when_only_numpy_and_onnxruntime_are_installed(lonely_python: Path, bundle: Path) -> None:
    done = run(lonely_python, str(bundle / "run.py"), "--check")
    assert done.stdout.startswith("self-check passed: 40 samples, "), done.stderr
    assert done.returncode == 0


def test_run_predict_and_time_answer_when_only_numpy_and_onnxruntime_are_installed(
    lonely_python: Path, bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", np.ones((2, 1, 8, 8), dtype=np.float32))
    predicted = run(lonely_python, str(bundle / "run.py"), "--predict", str(tmp_path / "in.npy"))
    assert (predicted.returncode, predicted.stdout.count("\n")) == (0, 2), predicted.stderr
    timed = run(lonely_python, str(bundle / "run.py"), "--time", "--runs", "5")
    assert timed.stdout.startswith("p50 "), timed.stderr


def test_run_check_fails_in_one_line_when_onnxruntime_is_not_installed(bundle: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=600)
    python = tmp_path / "bare" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = run(python, str(bundle / "run.py"), "--check")
    assert done.returncode == 1
    assert done.stderr == "error: No module named 'numpy'. Install them: pip install numpy onnxruntime\n"
