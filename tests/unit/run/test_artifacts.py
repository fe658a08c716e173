from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError, RunError
from paretopress.run.artifacts import ArtifactStore, RunArtifacts, SharedFiles, open_store
from paretopress.system.run_folder import RunFolder

LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.0, 1.1, 2.0, 8, 100, 0.1)


@dataclass
class Host:
    """An evaluator that writes the number of the trial and its rung as the model, and needs the trial's file to recover it."""

    folder: RunFolder
    started_from: list[str] = field(default_factory=list)

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.COSTS:
            return Outcome(rung, 10.0, 1, 1, LATENCY, 1, "", "0" * 64)
        student = self.folder.candidate(number, final=False) / "student.safetensors"
        self.started_from.append(student.read_text() if student.is_file() else "original")
        place = self.folder.candidate(number, final=rung is Rung.FINAL)
        place.mkdir(parents=True, exist_ok=True)
        content = f"model {number} {int(rung)}".encode()
        (place / "model.onnx").write_bytes(content)
        (place / "student.safetensors").write_text(f"student {number} {int(rung)}")
        path = str((place / "model.onnx").relative_to(self.folder.root))
        return Outcome(rung, 80.0, 1, 1, LATENCY, len(content), path, hashlib.sha256(content).hexdigest())

    def recover_in_part(self, plan: Plan, number: int, share: float) -> Outcome:
        return replace(self(plan, Rung.FINAL, number), notes=(str(share),))

    def latency_again(self, outcome: Outcome) -> Latency:
        assert (self.folder.root / outcome.onnx_path).is_file()
        return LATENCY


def host(tmp_path: Path, name: str) -> tuple[Host, SharedFiles]:
    root = tmp_path / name
    root.mkdir()
    inner = Host(RunFolder(root))
    return inner, SharedFiles(inner, RunArtifacts(open_store(str(tmp_path / "artifacts")), "night", waits_s=()), inner.folder)


def test_a_finalist_goes_on_where_another_host_left_its_trial(tmp_path: Path) -> None:
    (_, there), (inner, here) = host(tmp_path, "there"), host(tmp_path, "here")
    there(Plan(), Rung.COSTS, 3)
    short = there(Plan(), Rung.SHORT, 3)
    final = here.recover_in_part(Plan(), 3, 0.5)
    assert inner.started_from == ["student 3 1"]
    assert final.notes == ("0.5",)
    assert here.latency_again(short) == there.latency_again(final) == LATENCY
    assert (here.folder.root / short.onnx_path).read_bytes() == b"model 3 1"


def test_finalist_starts_from_original_weights_when_its_trial_is_nowhere(tmp_path: Path) -> None:
    inner, here = host(tmp_path, "here")
    here(Plan(), Rung.FINAL, 3)
    assert inner.started_from == ["original"]


def test_fetch_refuses_a_file_that_is_not_the_measured_one(tmp_path: Path) -> None:
    (_, there), (_, here) = host(tmp_path, "there"), host(tmp_path, "here")
    outcome = there(Plan(), Rung.SHORT, 3)
    with pytest.raises(RunError, match="another hash"):
        here.fetch(replace(outcome, onnx_sha256="f" * 64))
    assert not list((here.folder.root / "trials").rglob("*.onnx*"))
    with pytest.raises(RunError, match="must be there"):
        here.fetch(replace(outcome, onnx_path="trials/0009/model.onnx"))


def test_an_s3_bucket_is_a_shelf_too(tmp_path: Path, bucket: str) -> None:
    artifacts, file, copy = RunArtifacts(open_store(bucket), "night", waits_s=()), tmp_path / "model.onnx", tmp_path / "copy.onnx"
    file.write_bytes(b"model")
    artifacts.push("trials/0003/model.onnx", file)
    artifacts.pull("trials/0003/model.onnx", copy, hashlib.sha256(b"model").hexdigest())
    assert copy.read_bytes() == b"model"
    with pytest.raises(RunError, match="another hash"):
        artifacts.pull("trials/0003/model.onnx", tmp_path / "other.onnx", "f" * 64)
    with pytest.raises(RunError, match="must be there"):
        artifacts.pull("trials/0009/model.onnx", copy)
    with pytest.raises(RunError, match="must be writable, but got NoSuchBucket"):
        RunArtifacts(open_store("s3://nowhere"), "night", waits_s=()).push("trials/0003/model.onnx", file)


def test_open_store_says_what_is_wrong_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="writable"):
        open_store(str(tmp_path / "file" / "artifacts"))


@dataclass
class Busy:
    """A store that fails so many times before it answers."""

    store: ArtifactStore
    failures: int
    asked: int = 0

    def _answer(self) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise OSError("503 slow down")

    def open_reader(self, artifact_id: str) -> BinaryIO:
        self._answer()
        return self.store.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._answer()
        self.store.write(artifact_id, content_body)


def test_push_and_pull_try_again_when_the_store_is_busy(tmp_path: Path) -> None:
    store, file, copy = open_store(str(tmp_path / "artifacts")), tmp_path / "model.onnx", tmp_path / "copy.onnx"
    file.write_bytes(b"model")
    for action in ("push", "pull"):
        busy = Busy(store, failures=2)
        getattr(RunArtifacts(busy, "night", waits_s=(0.0, 0.0)), action)("model.onnx", file if action == "push" else copy)
        assert busy.asked == 3
    assert copy.read_bytes() == b"model"
    down = Busy(store, failures=9)
    with pytest.raises(RunError, match="must be readable, but got OSError: 503 slow down"):
        RunArtifacts(down, "night", waits_s=(0.0, 0.0)).pull("model.onnx", copy)
    assert down.asked == 3
    assert not list(tmp_path.glob("*.part"))


def test_pull_does_not_wait_for_what_is_not_there(tmp_path: Path) -> None:
    store = Busy(open_store(str(tmp_path / "artifacts")), failures=0)
    with pytest.raises(RunError, match="must be there"):
        RunArtifacts(store, "night", waits_s=(60.0,)).pull("model.onnx", tmp_path / "copy.onnx")
    assert store.asked == 1


def test_finalist_starts_from_original_weights_when_only_the_model_is_here(tmp_path: Path) -> None:
    (_, there), (inner, here) = host(tmp_path, "there"), host(tmp_path, "here")
    here.latency_again(there(Plan(), Rung.SHORT, 3))
    for file in (tmp_path / "artifacts").glob("*student*"):
        file.unlink()
    here(Plan(), Rung.FINAL, 3)
    assert inner.started_from == ["original"]
