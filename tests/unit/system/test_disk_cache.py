from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paretopress.system.atomic_files import write_json
from paretopress.system.disk_cache import Cache, cache_root, code_version, entries, prune


def filled(root: Path, kind: str, name: str, size: int, used_at: float) -> Path:
    cache = Cache(root, {})
    cache.put(kind, {"name": name}, lambda place: (place / "file").write_bytes(b"x" * size))
    place = cache.get(kind, {"name": name})
    assert place is not None
    os.utime(place, (used_at, used_at))
    return place


def test_get_returns_what_was_put_when_every_part_is_the_same(tmp_path: Path) -> None:
    cache = Cache(tmp_path, {"weights": "a"})
    cache.put("student", {"plan": {"kept": {"b": 8}}}, lambda place: (place / "file").write_text("trained"))
    kept = cache.get("student", {"plan": {"kept": {"b": 8}}})
    assert kept is not None
    assert (kept / "file").read_text() == "trained"
    assert cache.get("student", {"plan": {"kept": {"b": 9}}}) is None
    assert cache.get("setup", {"plan": {"kept": {"b": 8}}}) is None
    assert Cache(tmp_path, {"weights": "b"}).get("student", {"plan": {"kept": {"b": 8}}}) is None


def test_put_keeps_nothing_when_writing_fails(tmp_path: Path) -> None:
    def fails(place: Path) -> None:
        (place / "half").write_text("written")
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path, {})
    cache.put("student", {}, fails)
    assert cache.get("student", {}) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_put_keeps_nothing_and_says_nothing_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = Cache(tmp_path, {})
    cache.put("setup", {}, lambda place: write_json(place / "found.json", {"learning_rate": 0.1}))  # raises RunError
    assert cache.get("setup", {}) is None


def test_put_keeps_the_first_when_two_write_the_same(tmp_path: Path) -> None:
    cache = Cache(tmp_path, {})
    cache.put("student", {}, lambda place: (place / "file").write_text("first"))
    cache.put("student", {}, lambda place: (place / "file").write_text("second"))
    kept = cache.get("student", {})
    assert kept is not None
    assert (kept / "file").read_text() == "first"
    assert len(entries(tmp_path)) == 1


def test_put_and_get_do_nothing_when_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file", {})
    cache.put("student", {}, lambda place: None)
    assert cache.get("student", {}) is None


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    old, new = filled(tmp_path, "student", "old", 1_000, 1_000.0), filled(tmp_path, "setup", "new", 1_000, 2_000.0)
    both = sum(entry.size_bytes for entry in entries(tmp_path))
    assert prune(tmp_path, both) == []
    Cache(tmp_path, {}).get("student", {"name": "old"})  # used again: now the other one is older
    assert [entry.place for entry in prune(tmp_path, both - 1)] == [new]
    assert [entry.place for entry in entries(tmp_path)] == [old]


def test_prune_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    (tmp_path / "FashionMNIST" / "raw" / "images").write_bytes(b"x" * 1_000)
    filled(tmp_path, "student", "a", 10, 1.0)
    assert len(prune(tmp_path, 0)) == 1
    assert (tmp_path / "FashionMNIST" / "raw" / "images").is_file()


def test_cache_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "paretopress"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path.home() / ".cache" / "paretopress"


def test_code_version_names_the_sources() -> None:
    assert len(code_version()) == 16
    assert code_version() == code_version.__wrapped__()


def remove_the_file(place: Path) -> None:
    (place / "found.json").unlink()


def put_a_folder_in_its_place(place: Path) -> None:
    remove_the_file(place)
    (place / "found.json").mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "found.json").write_text('{"rate": 0.'),
        lambda place: (place / "found.json").write_bytes(b"\xff\xfe"),
        lambda place: (place / "found.json").write_text('{"schema": 9}'),
        remove_the_file,
        put_a_folder_in_its_place,
    ],
    ids=["truncated", "not text", "another schema", "a missing file", "a folder"],
)
def test_read_says_once_that_an_entry_is_damaged_and_put_replaces_it(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    def read(place: Path) -> float:
        return float(json.loads((place / "found.json").read_text())["rate"])

    cache = Cache(tmp_path, {})
    cache.put("setup", {}, lambda place: (place / "found.json").write_text('{"rate": 0.1}'))
    place = cache.get("setup", {})
    assert place is not None
    damage(place)
    assert [cache.read("setup", {}, read) for _ in range(2)] == [None, None]
    assert [record.getMessage().startswith(f"the cache's {place} is damaged") for record in caplog.records] == [True]
    cache.put("setup", {}, lambda place: (place / "found.json").write_text('{"rate": 0.2}'))
    assert cache.read("setup", {}, read) == 0.2
    assert [path.name for path in (tmp_path / "setup").iterdir()] == [place.name]


@pytest.mark.parametrize("is_folder", [True, False], ids=["a folder without its parts", "a file"])
def test_put_replaces_what_was_not_kept_whole(tmp_path: Path, is_folder: bool) -> None:
    cache = Cache(tmp_path, {})
    cache.put("setup", {}, lambda place: (place / "file").write_text("first"))
    place = cache.get("setup", {})
    assert place is not None
    (place / "parts.json").unlink()
    if not is_folder:
        (place / "file").unlink()
        place.rmdir()
        place.write_text("")
    assert cache.get("setup", {}) is None
    cache.put("setup", {}, lambda place: (place / "file").write_text("second"))
    assert cache.get("setup", {}) == place
    assert (place / "file").read_text() == "second"
