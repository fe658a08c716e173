"""Size and hash of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from paretopress.evaluators.size import file_facts


def test_file_facts_returns_the_published_hash_when_the_file_holds_abc(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_facts(path) == (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # FIPS 180-2, appendix B.1


def test_file_facts_reads_on_when_the_file_is_longer_than_a_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    path = tmp_path / "long"
    path.write_bytes(content)
    assert file_facts(path) == (2_560_000, hashlib.sha256(content).hexdigest())


def test_file_facts_raises_when_the_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_facts(tmp_path / "absent")
