"""Files are whole or absent."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from paretopress.errors import RunError
from paretopress.system.atomic_files import write_bytes, write_json, write_text


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_bytes_leaves_only_the_file_when_it_succeeds(tmp_path: Path) -> None:
    write_bytes(tmp_path / "model.onnx", b"\x00\xff")
    assert (tmp_path / "model.onnx").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_write_bytes_gives_the_permissions_that_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_bytes(tmp_path / "shared.json", b"{}")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "shared.json").stat().st_mode) == 0o644


def test_write_bytes_syncs_before_it_renames_when_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "front.json"
    seen: list[tuple[bool, list[int]]] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        sync(descriptor)
        sizes = [entry.stat().st_size for entry in tmp_path.iterdir()]
        seen.append((target.exists(), sizes))

    monkeypatch.setattr(os, "fsync", record)
    write_bytes(target, b"12345")
    assert seen == [(False, [5])]  # the bytes were out of Python's buffer, under another name


@pytest.mark.usefixtures("full_disk")
def test_write_text_keeps_the_old_file_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "front.json"
    target.write_text("old")
    with pytest.raises(RunError, match="No space left") as caught:
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["front.json"]
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("full_disk")
def test_write_bytes_leaves_nothing_when_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_bytes(tmp_path / "new.bin", b"abc")
    assert names(tmp_path) == []


def test_write_bytes_leaves_nothing_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "new.bin", b"abc")
    assert names(tmp_path) == []


def test_write_text_names_the_folder_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        write_text(tmp_path / "nowhere" / "a.txt", "a")
    assert str(tmp_path / "nowhere") in caught.value.hint


def test_write_text_raises_runerror_when_the_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        write_text(tmp_path / "file" / "a.txt", "a")


def test_write_json_writes_readable_utf8_when_text_is_not_ascii(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "größe", "points": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "größe", "points": [1, 2.5]}
    assert '  "name": "größe"' in text
    assert text.endswith("}\n")


def test_write_json_keeps_the_old_file_when_a_number_is_nan(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(RunError, match="must be finite"):
        write_json(tmp_path / "a.json", {"latency_ms": float("nan")})
    assert (tmp_path / "a.json").read_text() == "{}"
