"""The bundle of a detector: it takes a photo, and names and draws what it finds."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from paretopress.deploy.bundle import BundleFacts, write_bundle
from paretopress.deploy.verify import verify_bundle
from paretopress.errors import BundleError

SIZE, CELLS = 32, 16 + 4  # maps of 4x4 cells for 8 pixels and of 2x2 for 16


def detector(path: Path) -> Path:
    """Write a file that sees one dog in whatever photo: 12 pixels to each side of the centre of the cell in row 1, column 2."""
    boxes, scores = np.full((1, 4, CELLS), 1.0, np.float32), np.full((1, 2, CELLS), -9.0, np.float32)
    boxes[0, :, 6], scores[0, 1, 6] = 1.5, 3.0
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "b"], ["boxes"]),
        helper.make_node("Add", ["nothing", "s"], ["scores"]),
    ]
    held = {
        "axes": np.array([1, 2, 3], np.int64),
        "shape": np.array([-1, 1, 1], np.int64),
        "zero": np.zeros(1, np.float32),
        "b": boxes,
        "s": scores,
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "detector",
        [value("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [value("boxes", TensorProto.FLOAT, ["batch", 4, CELLS]), value("scores", TensorProto.FLOAT, ["batch", 2, CELLS])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    file = detector(tmp_path / "measured.onnx")
    facts = BundleFacts(
        title="a detector",
        classes=(),
        preprocessing={"color": "RGB", "letterbox": SIZE, "fill": 114, "scale": 1 / 255},
        measurements={},
        conditions={},
        plan={},
        session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        detection={"decoder": "yolo", "size": [SIZE, SIZE], "classes": ["cat", "dog"]},
    )
    samples = np.random.default_rng(0).random((4, 3, SIZE, SIZE), np.float32)
    return write_bundle(tmp_path / "bundle", onnx=file, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), facts=facts, samples=samples)


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(bundle / "run.py"), *arguments], capture_output=True, text=True, check=False)


def test_detector_bundle_finds_and_draws_in_a_photo(bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), (0, 0, 0)).save(tmp_path / "photo.jpg")
    found = run(bundle, "--predict", str(tmp_path / "photo.jpg"), "--draw", str(tmp_path / "out.png"))
    # in the square the box is (8, 0) to (32, 24); the photo has half its size there, 8 pixels from the top
    assert (found.stdout, found.returncode) == ("dog 0.953 at 16, 0, 64, 32\n", 0)
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (64, 32)
        assert drawn.getpixel((16, 20)) != (0, 0, 0)
    verify_bundle(bundle)  # nothing was written beside its files


def test_detector_bundle_verifies_with_the_files_that_it_needs(bundle: Path) -> None:
    verify_bundle(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md", "boxes.py", "manifest.json", "model.onnx", "photo.py", "run.py", "selfcheck.npz",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["boxes.py", "photo.py"])
def test_detector_bundle_fails_when_a_file_is_altered(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).write_text("raise SystemExit('altered')\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    found = run(bundle, "--predict", str(tmp_path / "photo.png"))
    assert found.returncode == 1
    assert name in found.stderr
    assert "altered" not in found.stdout
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        verify_bundle(bundle)


def test_detector_bundle_says_when_it_is_given_no_photo(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    found = run(bundle, "--predict", str(tmp_path / "photo.jpg"))
    assert (found.returncode, "must be a photo" in found.stderr) == (2, True)


def test_other_bundles_say_that_a_photo_is_for_detectors(bundle: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(bundle, plain)
    from paretopress.deploy import bundle_run

    loaded = bundle_run.load(bundle)
    other = bundle_run.Bundle(plain, {**loaded.manifest, "detection": {}}, loaded.session)
    with pytest.raises(bundle_run.WrongInputError, match="for the bundle of a detector"):
        bundle_run.describe_objects(other, tmp_path / "photo.jpg", None)
