"""Reports on disk, in a cache folder of the test's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paretopress.errors import RunError
from paretopress.targets.probe.probe_report import ProbeReport
from paretopress.targets.probe.report_cache import cache_folder, read_report, write_report


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_cache_folder_follows_xdg_when_its_path_is_absolute(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache / "paretopress" / "probes"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "paretopress" / "probes"


def test_read_report_returns_what_was_written_for_the_same_fingerprint(probe_report: ProbeReport) -> None:
    assert read_report(probe_report.fingerprint) is None
    write_report(probe_report)
    assert read_report(probe_report.fingerprint) == probe_report


def test_read_report_returns_nothing_when_the_fingerprint_is_another(probe_report: ProbeReport) -> None:
    path = write_report(probe_report)
    updated = dict(probe_report.fingerprint) | {"onnxruntime": "1.32.0"}
    assert read_report(updated) is None
    path.rename(write_report(replace(probe_report, fingerprint=updated)))  # a file under another's name
    assert read_report(updated) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_read_report_returns_nothing_when_the_file_is_damaged(probe_report: ProbeReport, content: bytes) -> None:
    write_report(probe_report).write_bytes(content)
    assert read_report(probe_report.fingerprint) is None


def test_write_report_names_the_folder_when_it_cannot_be_made(probe_report: ProbeReport, cache: Path) -> None:
    (cache / "paretopress").write_text("a file in the way")
    with pytest.raises(RunError, match=r"the cache folder must be writable.*probes"):
        write_report(probe_report)
