from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paretopress.system import arrays_on_disk as module
from paretopress.system.arrays_on_disk import ArraysOnDisk

ARRAYS = (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False]), np.zeros((0, 4), np.int64), np.array(3.5))


def test_arrays_come_back_as_they_were_and_leave_nothing_in_the_folder(tmp_path: Path) -> None:
    disk = ArraysOnDisk(tmp_path)
    first, second = disk.take(ARRAYS), disk.take((np.ones(5),))
    assert first is not None
    assert second is not None
    for kept, array in zip((*first, *second), (*ARRAYS, np.ones(5)), strict=True):
        assert kept.dtype == array.dtype
        np.testing.assert_array_equal(kept, array)
    assert list(tmp_path.iterdir()) == []


def test_what_is_changed_is_changed_for_nobody_else(tmp_path: Path) -> None:
    disk = ArraysOnDisk(tmp_path)
    (kept,) = disk.take((np.ones(4, np.float32),)) or ()
    torch.from_numpy(kept).zero_()
    (again,) = disk.take((np.full(4, 2.0, np.float32),)) or ()
    assert (kept.tolist(), again.tolist()) == ([0.0] * 4, [2.0] * 4)


def test_no_array_is_taken_without_a_folder_or_beyond_the_bound(tmp_path: Path) -> None:
    for disk in (ArraysOnDisk(None), ArraysOnDisk(tmp_path / "absent"), ArraysOnDisk(tmp_path, 100)):
        assert disk.take((np.zeros(64),)) is None
    disk = ArraysOnDisk(tmp_path, 300)
    assert disk.take((np.zeros(16),)) is not None
    assert disk.take((np.zeros(16),)) is None


def test_no_array_is_taken_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    disk = ArraysOnDisk(tmp_path)
    monkeypatch.setattr(module.np, "memmap", full)
    assert disk.take((np.zeros(4),)) is None
    assert not disk.takes(1)
