"""A bundle from elsewhere is data: verifying it runs none of its code, leaves no files, and reads nothing outside of its folder."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paretopress.deploy import bundle_run
from paretopress.deploy.bundle_run import OPTIONS, BrokenBundleError, holds_its_weights, session_options
from paretopress.deploy.verify import verify_bundle
from paretopress.errors import BundleError

Reseal = Callable[..., None]


def manifest(bundle: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return value


@pytest.mark.parametrize(
    "option",
    [
        {"enable_profiling": 1},
        {"profile_file_prefix": 1},
        {"optimized_model_filepath": "/tmp/x"},
        {"session.model_external_initializers_file_folder_path": "/etc"},
        {"session.load_model_format": "ORT"},
        {"ep.context_enable": 1},
        {"log_verbosity_level": 9},
        {"__class__": 1},
        {"intra_op_num_threads": "1"},
        {"intra_op_num_threads": True},
        {"intra_op_num_threads": -1},
        {"intra_op_num_threads": 10**9},
        {"graph_optimization_level": 7},
        {"session.intra_op.allow_spinning": 2},
    ],
    ids=lambda option: f"{option}",
)
def test_verify_bundle_refuses_when_a_session_option_is_not_allowed(
    bundle: Path, reseal: Reseal, option: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reseal(bundle, session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1} | option)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BundleError, match="session option"):
        verify_bundle(bundle)
    assert os.listdir() == []


def test_session_options_takes_every_allowed_option_when_set() -> None:
    for name, values in OPTIONS.items():
        for value in (values[0], values[-1]):
            made = session_options({name: value})
            found = made.get_session_config_entry(name) if "." in name else getattr(made, name)
            assert int(found) == value, name


def test_verify_bundle_leaves_no_files_when_it_passes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(os.listdir(bundle))
    verify_bundle(bundle)
    assert (os.listdir(), sorted(os.listdir(bundle))) == ([], before)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
def test_verify_bundle_refuses_when_weights_lie_in_another_file(bundle: Path, reseal: Reseal, location: str) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, bundle / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle, sha256=bundle_run.file_sha256(bundle / "model.onnx"))
    with pytest.raises(BundleError, match="names other files"):
        verify_bundle(bundle)
    assert bundle_run.main(["--check"], bundle) == 1


def outside() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def model_with(place: str) -> onnx.ModelProto:
    tensor, node = outside(), helper.make_node("Identity", ["x"], ["y"])
    graph, model = onnx.GraphProto(), onnx.ModelProto()
    if place == "initializer":
        graph.initializer.append(tensor)
    elif place == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "attribute":
        node.attribute.append(helper.make_attribute("value", tensor))
    elif place == "tensors":
        node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    elif place == "subgraph":
        inner = onnx.GraphProto()
        inner.initializer.append(tensor)
        node.attribute.append(helper.make_attribute("then_branch", inner))
    elif place == "function":
        inner_node = model.functions.add().node.add()
        inner_node.attribute.append(helper.make_attribute("value", tensor))
    elif place == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
    graph.node.append(node)
    model.graph.CopyFrom(graph)
    return model


@pytest.mark.parametrize("place", ["initializer", "sparse", "attribute", "tensors", "subgraph", "function", "training"])
def test_holds_its_weights_finds_a_tensor_elsewhere_when_it_is_in(place: str) -> None:
    assert not holds_its_weights(model_with(place).SerializeToString())


def test_holds_its_weights_when_the_file_does(bundle: Path) -> None:
    data = (bundle / "model.onnx").read_bytes()
    assert holds_its_weights(data)
    assert holds_its_weights(model_with("nowhere").SerializeToString())
    # a second graph field is merged into the first one, so it counts as well
    assert not holds_its_weights(data + model_with("initializer").SerializeToString())


@pytest.mark.parametrize("data", [b"\x3a\xff", b"\x3a\x05ab", b"\xff" * 12, b"\x0b", b"\x09abc"])
def test_holds_its_weights_raises_when_the_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        holds_its_weights(data)


@pytest.mark.parametrize("name", ["model.onnx", "selfcheck.npz", "README.md", "manifest.json"])
def test_verify_bundle_refuses_when_a_file_is_a_link_out_of_the_folder(bundle: Path, name: str, tmp_path: Path) -> None:
    moved = tmp_path / name
    (bundle / name).rename(moved)
    (bundle / name).symlink_to(moved)
    with pytest.raises(BundleError, match="it is a link to"):
        verify_bundle(bundle)


@pytest.mark.parametrize("name", ["numpy.py", "onnxruntime", "json.pyc", "numpy.cpython-311-x86_64-linux-gnu.so"])
def test_verify_bundle_refuses_when_code_lies_beside_run_py(bundle: Path, name: str) -> None:
    (bundle / name).mkdir() if "." not in name else (bundle / name).write_text("raise SystemExit")
    with pytest.raises(BundleError, match="no code beside run"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "changed",
    [
        {"files": {"../x": {}}},
        {"inputs": []},
        {"inputs": ["x"]},
        {"inputs": [{"name": "x", "dtype": "float32", "shape": "N"}]},
        {"inputs": [{"name": "x\x1b[2J", "dtype": "float32", "shape": ["N"]}]},
        {"outputs": [{"name": "y", "dtype": "float32", "shape": [0]}]},
        {"outputs": [{"name": "y", "dtype": "float32", "shape": [1.5]}]},
        {"classes": [1, 2, 3]},
        {"conditions": {"batch": 10**12}},
        {"selfcheck": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_verify_bundle_refuses_when_the_manifest_holds_unknown_keys(bundle: Path, reseal: Reseal, changed: dict[str, Any]) -> None:
    if "files" in changed:
        changed = {"files": manifest(bundle)["files"] | changed["files"]}
    reseal(bundle, **changed)
    with pytest.raises(BundleError, match=f"must hold {next(iter(changed))}"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("batch", "1"), ("samples", 10**9), ("max_difference_of_range", 1e9), ("min_argmax_agreement", -1), ("cpu_family", 7)],
)
def test_verify_bundle_refuses_when_the_self_check_is_out_of_bounds(bundle: Path, reseal: Reseal, name: str, value: object) -> None:
    reseal(bundle, selfcheck=manifest(bundle)["selfcheck"] | {name: value})
    with pytest.raises(BundleError, match=f"selfcheck.{name}"):
        verify_bundle(bundle)


def test_verify_bundle_refuses_when_samples_unpack_to_too_much(bundle: Path, reseal: Reseal, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(bundle / "selfcheck.npz", input_0=np.zeros((1, 10_000_000), np.float32))
    reseal(bundle)
    monkeypatch.setitem(bundle_run.MOST_BYTES, "selfcheck.npz", 1_000_000)
    assert (bundle / "selfcheck.npz").stat().st_size < 1_000_000
    with pytest.raises(BundleError, match="when unpacked"):
        verify_bundle(bundle)


def test_verify_bundle_refuses_when_samples_claim_another_shape(bundle: Path, reseal: Reseal) -> None:
    with zipfile.ZipFile(bundle / "selfcheck.npz", "w") as archive, archive.open("input_0.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**14,)})
    reseal(bundle)
    with pytest.raises(BundleError, match=r"selfcheck\.npz must hold"):
        verify_bundle(bundle)


def test_verify_bundle_refuses_when_a_file_is_too_large(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bundle_run.MOST_BYTES, "manifest.json", 10)
    with pytest.raises(BundleError, match="at most 10 bytes"):
        verify_bundle(bundle)


def test_verify_bundle_refuses_when_the_manifest_is_nested_without_end(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BundleError, match=r"manifest\.json must"):
        verify_bundle(bundle)


def test_check_manifest_passes_when_ours(bundle: Path) -> None:
    bundle_run.check_manifest(manifest(bundle))
    with pytest.raises(BrokenBundleError):
        bundle_run.check_manifest(manifest(bundle) | {"classes": [None]})
