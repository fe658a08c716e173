"""One measurement at a time on a machine."""

from __future__ import annotations

import fcntl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from paretopress.targets import local
from paretopress.targets.local import LocalTarget
from paretopress.targets.lock import lock_file, no_measurement, sole_measurement


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def is_free() -> bool:
    with lock_file().open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_sole_measurement_keeps_others_out_when_held() -> None:
    with sole_measurement():
        assert not is_free()
    assert is_free()


def test_sole_measurement_lets_go_when_a_measurement_fails() -> None:
    with pytest.raises(ZeroDivisionError), sole_measurement():
        _ = 1 / 0
    assert is_free()


def test_sole_measurement_follows_no_link_when_one_lies_in_its_place(tmp_path: Path) -> None:
    lock_file().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"), sole_measurement():
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("function", ["measure", "measure_baseline"])
def test_local_target_holds_the_lock_when_it_measures(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def spy(*_: Any, **__: Any) -> None:
        held.append(not is_free())

    monkeypatch.setattr(local, function, spy)
    files = [Path("a.onnx")] if function == "measure_baseline" else [Path("a.onnx"), Path("b.onnx")]
    options = {} if function == "measure_baseline" else {"baseline_ms": 1.0, "limit_ms": None}
    getattr(LocalTarget(), function)(*files, feed={}, rng=None, **options)
    assert held == [True]


def can_share(name: str = "measuring") -> bool:
    with lock_file(name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_no_measurement_lets_others_train_and_none_measure_when_held() -> None:
    with no_measurement():
        assert can_share()
        assert not is_free()
        assert can_share("gate")  # left open: a measurement that waits can shut it
    assert is_free()


def test_sole_measurement_shuts_the_gate_when_it_waits_for_a_step(tmp_path: Path) -> None:
    measured = threading.Event()

    def measure() -> None:
        with sole_measurement():
            measured.set()

    with no_measurement():
        waiting = threading.Thread(target=measure)
        waiting.start()
        while can_share("gate"):  # until the measurement has shut it
            time.sleep(0.001)
        assert not measured.is_set()
    waiting.join(10.0)
    assert measured.is_set()
