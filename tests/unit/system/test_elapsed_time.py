from __future__ import annotations

import time
from pathlib import Path

import pytest

from paretopress.system.elapsed_time import recorded_elapsed_s, recording_elapsed


def test_elapsed_seconds_are_recorded_while_work_goes_on_and_at_its_end(tmp_path: Path) -> None:
    path, worked = tmp_path / "worked", iter(float(n) for n in range(1_000))
    with recording_elapsed(path, lambda: next(worked), every_s=0.01):
        deadline = time.monotonic() + 10.0
        while recorded_elapsed_s(path) < 3.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert recorded_elapsed_s(path) == next(worked) - 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["worked"]


@pytest.mark.parametrize("text", [None, "", "many\n"])
def test_recorded_elapsed_seconds_are_none_where_nothing_can_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "worked").write_text(text)
    assert recorded_elapsed_s(tmp_path / "worked") == 0.0


def test_recording_elapsed_goes_on_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    with recording_elapsed(tmp_path / "gone" / "worked", lambda: 1.0, every_s=0.01):
        time.sleep(0.05)
    assert not (tmp_path / "gone").exists()
