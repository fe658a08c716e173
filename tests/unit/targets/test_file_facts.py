"""When a file is read again to be hashed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from paretopress.targets import file_facts as facts
from paretopress.targets.file_facts import file_facts


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_file_facts_read_a_file_once_when_it_does_not_change(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    assert [file_facts(path) for _ in range(3)] == [(7, sha256(b"weights"))] * 3
    assert hashed == ["model.onnx"]


@pytest.mark.parametrize("in_place", [True, False], ids=["written", "replaced"])
def test_file_facts_read_again_when_bytes_of_the_same_length_differ(tmp_path: Path, hashed: list[str], in_place: bool) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    path.write_bytes(b"weights")
    other.write_bytes(b"WEIGHTS")
    file_facts(path)
    before = path.stat()
    if in_place:
        path.write_bytes(b"WEIGHTS")
    else:
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as what unpacks an archive does
    assert file_facts(path) == (7, sha256(b"WEIGHTS"))
    assert hashed == ["model.onnx"] * 2


@pytest.mark.parametrize(
    ("stamp_ns", "age_ns", "again"),
    [(1_000_123_456, 5_000_000, True), (1_000_123_456, 25_000_000, False), (10**9, 25_000_000, True), (10**9, 2_500_000_000, False)],
    ids=["fine, young", "fine, old", "seconds, young", "seconds, old"],
)
def test_file_facts_read_again_when_a_change_could_bear_the_same_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamp_ns: int, age_ns: int, again: bool
) -> None:
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(facts, "_state", lambda _: (1, 2, 7, stamp_ns, stamp_ns))  # as a file system whose clock has not ticked
    monkeypatch.setattr(facts, "time", SimpleNamespace(time_ns=lambda: stamp_ns + age_ns))
    path.write_bytes(b"weights")
    file_facts(path)
    path.write_bytes(b"WEIGHTS")
    assert file_facts(path)[1] == sha256(b"WEIGHTS" if again else b"weights")
