"""What lies in a store of artifacts, where others can write, stays data inside the run's folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from optuna.artifacts.exceptions import ArtifactNotFound

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.errors import ConfigError, ForeignDataError, OutsideFolderError, RunError
from paretopress.run.artifacts import RunArtifacts, SharedFiles, open_store
from paretopress.run.folder_store import FolderStore
from paretopress.system.run_folder import RunFolder

LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.0, 1.1, 2.0, 8, 100, 0.1)


def outcome(name: str, content: bytes, size_bytes: int | None = None) -> Outcome:
    digest = hashlib.sha256(content).hexdigest()
    return Outcome(Rung.SHORT, 90.0, 1, 1, LATENCY, len(content) if size_bytes is None else size_bytes, name, digest)


def artifacts(tmp_path: Path) -> RunArtifacts:
    return RunArtifacts(open_store(str(tmp_path / "artifacts")), "night")


def shared(tmp_path: Path) -> SharedFiles:
    root = tmp_path / "deep" / "run"
    root.mkdir(parents=True)
    return SharedFiles(None, artifacts(tmp_path), RunFolder(root))  # type: ignore[arg-type]  # nothing is evaluated


def put(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "artifacts" / f"night-{name.replace('/', '-')}").write_bytes(content)


@pytest.mark.parametrize("name", ["../../planted.onnx", "trials/../../../planted.onnx", "storage-url", "front.json", "", "C:x.onnx"])
def test_fetch_writes_nothing_when_a_recorded_path_leads_elsewhere(tmp_path: Path, name: str) -> None:
    files = shared(tmp_path)
    put(tmp_path, name, b"owned")
    with pytest.raises(OutsideFolderError):
        files.fetch(outcome(name, b"owned"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "artifacts"]


def test_fetch_writes_nothing_when_an_absolute_path_was_recorded(tmp_path: Path) -> None:
    files = shared(tmp_path)
    with pytest.raises(OutsideFolderError):
        files.fetch(outcome(str(tmp_path / "planted.onnx"), b"owned"))


def test_fetch_writes_nothing_when_a_link_leads_out(tmp_path: Path) -> None:
    files = shared(tmp_path)
    put(tmp_path, "trials/0007/model.onnx", b"")
    (tmp_path / "out").mkdir()
    (files.folder.root / "trials").symlink_to(tmp_path / "out")
    with pytest.raises(OutsideFolderError, match="leads to"):
        files.fetch(outcome("trials/0007/model.onnx", b""))
    assert list((tmp_path / "out").iterdir()) == []


def test_fetch_refuses_when_the_file_is_larger_than_recorded(tmp_path: Path) -> None:
    files = shared(tmp_path)
    put(tmp_path, "trials/0007/model.onnx", b"x" * 1_000)
    with pytest.raises(ForeignDataError, match="at most 10 bytes"):
        files.fetch(outcome("trials/0007/model.onnx", b"x" * 1_000, size_bytes=10))
    assert not list(files.folder.root.rglob("model.onnx*"))


def test_fetch_refuses_when_the_file_names_others_for_its_weights(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, 1, ["n", 2]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights]))
    onnx.save(model, tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = (tmp_path / "m.onnx").read_bytes()
    files = shared(tmp_path)
    put(tmp_path, "trials/0007/model.onnx", content)
    with pytest.raises(ForeignDataError, match="must hold its weights itself"):
        files.fetch(outcome("trials/0007/model.onnx", content))
    content = (tmp_path / "whole.onnx").read_bytes()
    put(tmp_path, "trials/0008/model.onnx", content)
    files.fetch(outcome("trials/0008/model.onnx", content))
    assert (files.folder.root / "trials/0008/model.onnx").read_bytes() == content


def test_study_named_by_a_path_reaches_nothing_outside_the_store(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    away = RunArtifacts(open_store(str(tmp_path / "artifacts")), "../night")
    with pytest.raises(RunError):
        away.push("model", tmp_path / "x")
    with pytest.raises(RunError):
        away.pull("model", tmp_path / "y")


def test_folder_store_follows_no_link_when_it_reads_or_writes(tmp_path: Path) -> None:
    store, secret = FolderStore(tmp_path / "store"), tmp_path / "secret"
    store.folder.mkdir()
    secret.write_text("secret")
    (store.folder / "a").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"):
        store.open_reader("a")
    store.write("a", io.BytesIO(b"mine"))
    assert secret.read_text() == "secret"
    with store.open_reader("a") as file:
        assert file.read() == b"mine"
    assert [path.name for path in store.folder.iterdir()] == ["a"]
    store.remove("a")
    for missing in (store.open_reader, store.remove):
        with pytest.raises(ArtifactNotFound):
            missing("a")


@pytest.mark.parametrize("spec", ["s3://AKIA:hunter2@bucket", "s3://bucket?secret=hunter2", "s3://", "gs://bucket", "s3://bucket/folder"])
def test_open_store_refuses_and_shows_no_key_when_a_spec_holds_more(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(spec)
    assert "hunter2" not in str(caught.value)
