"""What `write_bundle` promises: the measured bytes, a full manifest, and a folder that appears whole or not at all."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from paretopress.deploy import bundle as bundle_module
from paretopress.deploy import bundle_run
from paretopress.deploy.bundle import BundleFacts, write_bundle
from paretopress.errors import BundleError, ConfigError, DataError, RunFolderError

Array = np.ndarray[Any, Any]
Write = Callable[..., Path]
Facts = Callable[..., BundleFacts]


def manifest_of(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def test_write_bundle_ships_the_measured_bytes_when_hash_matches(bundle: Path, tmp_path: Path, sha256: Callable[[Path], str]) -> None:
    measured = tmp_path / "measured.onnx"
    assert (bundle / "model.onnx").read_bytes() == measured.read_bytes()
    assert manifest_of(bundle)["sha256"] == sha256(measured)
    assert manifest_of(bundle)["size_bytes"] == measured.stat().st_size


def test_write_bundle_holds_exactly_the_five_files_when_written(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "manifest.json", "model.onnx", "run.py", "selfcheck.npz"]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_write_bundle_records_every_files_hash_when_written(bundle: Path, sha256: Callable[[Path], str]) -> None:
    files = manifest_of(bundle)["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == {
        name: sha256(bundle / name) for name in ("README.md", "model.onnx", "run.py", "selfcheck.npz")
    }
    assert all(entry["size_bytes"] == (bundle / name).stat().st_size for name, entry in files.items())


def test_write_bundle_records_facts_and_interface_when_written(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    assert (manifest["schema"], manifest["format_version"]) == (1, 2)
    assert manifest["inputs"] == [{"name": "x", "shape": ["N", 1, 2, 2], "dtype": "float32"}]
    assert manifest["outputs"] == [{"name": "scores", "shape": ["N", 3], "dtype": "float32"}]
    assert manifest["classes"] == ["cat", "dog", "owl"]
    assert manifest["preprocessing"] == {"scale": 255}
    assert manifest["measurements"] == {"latency": {"latency_ms": 1.25}, "test_accuracy": 91.5}
    assert manifest["conditions"] == {"cpu": "a test", "batch": 1}
    assert manifest["plan"] == {"schema": 1, "bits": {"conv1": 8}}
    assert manifest["session_options"] == {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    assert manifest["selfcheck"] == {
        "samples": 10,
        "batch": 10,
        "max_difference_of_range": 1e-3,
        "min_argmax_agreement": 0.9,
        "cpu_family": bundle_run.cpu_family(),
        "onnxruntime": ort.__version__,
    }


def test_write_bundle_records_the_models_outputs_when_written(bundle: Path, samples: Array) -> None:
    with np.load(bundle / "selfcheck.npz") as arrays:
        assert np.array_equal(arrays["input_0"], samples)
        assert np.array_equal(arrays["expected_0"], 2 * np.eye(3, dtype=np.float32)[np.arange(10) % 3])


def test_write_bundle_names_figures_and_conditions_in_the_card(bundle: Path) -> None:
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "| latency.latency_ms | 1.25 |" in card
    assert "| test_accuracy | 91.5 |" in card
    assert "| intra_op_num_threads | 1 |" in card
    assert "cat, dog, owl" in card


def test_write_bundle_stays_readable_for_others_when_the_umask_allows(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert bundle.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_bundle_fills_the_folder_when_it_exists_and_is_empty(write: Write, tmp_path: Path) -> None:
    to = tmp_path / "empty"
    to.mkdir()
    assert write(to=to) == to
    assert (to / "manifest.json").is_file()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_write_bundle_refuses_and_keeps_when_something_is_there(write: Write, tmp_path: Path, kind: str) -> None:
    to = tmp_path / "taken"
    kept = to / "notes.txt" if kind == "folder" else to
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="new or empty folder") as caught:
        write(to=to)
    assert caught.value.exit_code == 2
    assert kept.read_text(encoding="utf-8") == "mine"
    assert not (to / "manifest.json").exists()


def test_write_bundle_refuses_when_the_file_is_not_the_measured_one(write: Write, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="measured file with sha256 0000") as caught:
        write(sha256="0" * 64)
    assert caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_write_bundle_refuses_when_the_file_is_missing(write: Write, tmp_path: Path, make_facts: Facts, samples: Array) -> None:
    with pytest.raises(BundleError, match="must exist"):
        write_bundle(tmp_path / "b", onnx=tmp_path / "gone.onnx", sha256="0" * 64, facts=make_facts(), samples=samples)


def test_write_bundle_refuses_when_the_model_does_not_load(write: Write, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(BundleError, match="must load"):
        write(onnx=broken)
    assert list((tmp_path / "out").iterdir()) == []


def test_write_bundle_refuses_when_weights_lie_outside_the_file(write: Write, make_model: Write, tmp_path: Path) -> None:
    model = onnx.load(make_model())
    (tmp_path / "split").mkdir()
    outside = tmp_path / "split" / "model.onnx"
    onnx.save(model, outside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "split" / "weights.bin").is_file()
    with pytest.raises(BundleError, match="must load"):
        write(onnx=outside)


@pytest.mark.parametrize("step", ["copyfile", "savez_compressed", "rename"])
def test_write_bundle_leaves_nothing_when_the_disk_is_full(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"copyfile": shutil, "savez_compressed": np, "rename": Path}[step]
    monkeypatch.setattr(owner, step, full)
    with pytest.raises(BundleError, match="No space left") as caught:
        write()
    assert "free space" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_write_bundle_leaves_nothing_when_interrupted(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, "verify_bundle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda array: array.astype(np.float64), "must be float32, but got float64"),
        (lambda array: array[:, :, :1], "must have shape"),
        (lambda array: array[0], "must have shape"),
        (lambda array: array[:0], "must be positive"),
        (lambda array: array * np.float32("nan"), "finite"),
    ],
    ids=["dtype", "size", "rank", "none", "nan"],
)
def test_write_bundle_refuses_when_samples_do_not_fit(
    write: Write, samples: Array, change: Callable[[Array], Array], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason):
        write(samples=change(samples))
    assert list((tmp_path / "out").iterdir()) == []


def test_write_bundle_runs_the_fixed_batch_when_the_model_has_one(write: Write, make_model: Write, samples: Array) -> None:
    folder = write(onnx=make_model(batch=5))
    assert manifest_of(folder)["selfcheck"]["batch"] == 5
    assert manifest_of(folder)["inputs"][0]["shape"] == [5, 1, 2, 2]
    with np.load(folder / "selfcheck.npz") as arrays:
        assert arrays["expected_0"].shape == (10, 3)


@pytest.mark.parametrize("batch", [4, 32])
def test_write_bundle_fills_up_the_last_batch(write: Write, make_model: Write, batch: int) -> None:
    folder = write(onnx=make_model(batch=batch))
    assert manifest_of(folder)["selfcheck"]["batch"] == batch
    with np.load(folder / "selfcheck.npz") as arrays:
        assert arrays["expected_0"].argmax(axis=1).tolist() == [index % 3 for index in range(10)]


def test_write_bundle_takes_a_class_name_per_channel_for_pixels(write: Write, make_pixel_model: Write) -> None:
    folder = write(onnx=make_pixel_model())
    assert "in the order of axis 1 of the first output: cat, dog, owl" in (folder / "README.md").read_text()


def test_write_bundle_refuses_when_class_names_do_not_match_the_channels(write: Write, make_pixel_model: Write, make_facts: Facts) -> None:
    with pytest.raises(BundleError, match=r"a value for each of 2 class names, but got shape \(10, 3, 2, 2\)"):
        write(onnx=make_pixel_model(), facts=make_facts(classes=("cat", "dog")))


def test_write_bundle_calls_no_model_an_image_classifier(bundle: Path) -> None:
    assert "classifier" not in (bundle / "README.md").read_text()


def test_write_bundle_takes_half_floats_when_the_model_does(write: Write, make_model: Write, samples: Array) -> None:
    folder = write(onnx=make_model(dtype=TensorProto.FLOAT16), samples=samples.astype(np.float16))
    assert manifest_of(folder)["inputs"][0]["dtype"] == "float16"


def test_write_bundle_refuses_when_class_names_do_not_match_the_outputs(write: Write, make_facts: Facts) -> None:
    with pytest.raises(BundleError, match=r"a value for each of 2 class names, but got shape \(10, 3\)"):
        write(facts=make_facts(classes=("cat", "dog")))


def test_write_bundle_refuses_when_a_session_option_is_unknown(write: Write, make_facts: Facts) -> None:
    options = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "turbo": 1}
    with pytest.raises(BundleError, match="turbo=1"):
        write(facts=make_facts(session_options=options))


def test_bundle_facts_refuse_when_a_thread_count_is_missing(make_facts: Facts) -> None:
    with pytest.raises(ConfigError, match="inter_op_num_threads"):
        make_facts(session_options={"intra_op_num_threads": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_bundle_facts_refuse_when_a_figure_is_not_json(make_facts: Facts, value: object) -> None:
    with pytest.raises(BundleError, match="measurements must be JSON"):
        make_facts(measurements={"latency_ms": value})


def test_bundle_facts_become_plain_json_when_values_are_numpy_scalars(make_facts: Facts) -> None:
    assert make_facts(measurements={"latency_ms": np.float64(1.5)}).to_json()["measurements"] == {"latency_ms": 1.5}


def test_deploy_imports_no_torch_when_parsed() -> None:
    for path in Path(bundle_module.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0].startswith("torch")], path.name
