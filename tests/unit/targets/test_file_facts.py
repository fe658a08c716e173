"""When a file is read again to be hashed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from paretopress.targets.file_facts import file_facts


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_file_facts_read_a_file_once_when_it_does_not_change(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    assert [file_facts(path) for _ in range(3)] == [(7, sha256(b"weights"))] * 3
    assert hashed == ["model.onnx"]


@pytest.mark.parametrize("in_place", [True, False], ids=["written", "replaced"])
def test_file_facts_read_a_file_again_when_other_bytes_of_the_same_length_are_there(
    tmp_path: Path, hashed: list[str], in_place: bool
) -> None:
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


def test_file_facts_read_a_file_again_when_it_was_changed_a_moment_before(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for k in range(200):  # many of them within one tick of the file system's clock, which stamps them alike
        path.write_bytes(b"%07d" % k)
        assert file_facts(path) == (7, sha256(b"%07d" % k))
