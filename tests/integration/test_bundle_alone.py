"""A bundle in a fresh environment that holds numpy and onnxruntime and nothing of paretopress."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

from paretopress.deploy.bundle import BundleFacts, write_bundle

pytestmark = pytest.mark.slow  # for the environment's installation


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, small_onnx: Path) -> Path:
    """Return a written bundle."""
    folder = tmp_path_factory.mktemp("written")
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
    digest = hashlib.sha256(small_onnx.read_bytes()).hexdigest()
    return write_bundle(folder / "bundle", onnx=small_onnx, sha256=digest, facts=facts, samples=samples)


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), "-I", *arguments], capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("module", ["torch", "paretopress", "onnx"])
def test_lonely_python_lacks_what_bundles_do_not_need(lonely_python: Path, module: str) -> None:
    done = run(lonely_python, "-c", f"import {module}")
    assert done.returncode == 1
    assert f"No module named '{module}'" in done.stderr


def test_run_check_passes_when_only_numpy_and_onnxruntime_are_installed(lonely_python: Path, bundle: Path) -> None:
    done = run(lonely_python, str(bundle / "run.py"), "--check")
    assert done.stdout.startswith("self-check passed: 40 samples, "), done.stderr
    assert done.returncode == 0


def test_run_predict_and_time_answer_with_numpy_and_onnxruntime_alone(lonely_python: Path, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones((2, 1, 8, 8), dtype=np.float32))
    predicted = run(lonely_python, str(bundle / "run.py"), "--predict", str(tmp_path / "in.npy"))
    assert (predicted.returncode, predicted.stdout.count("\n")) == (0, 2), predicted.stderr
    timed = run(lonely_python, str(bundle / "run.py"), "--time", "--runs", "5")
    assert timed.stdout.startswith("p50 "), timed.stderr


def test_run_check_fails_in_one_line_when_onnxruntime_is_not_installed(bundle: Path, bare_python: Path) -> None:
    done = run(bare_python, str(bundle / "run.py"), "--check")
    assert done.returncode == 1
    assert done.stderr == "error: No module named 'numpy'. Install them: pip install numpy onnxruntime\n"
