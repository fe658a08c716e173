"""One measurement at a time on a machine."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from paretopress.targets import local, lock
from paretopress.targets.local import LocalTarget
from paretopress.targets.lock import lock_file, no_measurement, sole_measurement


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of this test's own: a shared folder and a private one."""
    for name in ("shared", "private"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(lock, "SHARED_FOLDER", tmp_path / "shared")
    monkeypatch.setattr(lock, "private_folder", lambda: tmp_path / "private")
    monkeypatch.setattr(lock, "_said", set())
    monkeypatch.setattr(lock, "_given_up", set())


@pytest.fixture(params=["private", "shared"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The file of either lock."""
    return tmp_path / "private" / "measuring.lock" if request.param == "private" else tmp_path / "shared" / "paretopress-measuring.lock"


def free(path: Path, kind: int = fcntl.LOCK_EX) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_sole_measurement_keeps_others_out_of_both_locks_when_held(path: Path) -> None:
    with sole_measurement():
        assert not free(path)
    assert free(path)


def test_sole_measurement_lets_go_when_a_measurement_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_measurement():
        _ = 1 / 0
    assert free(path)


def test_no_measurement_lets_others_train_and_none_measure_when_held(path: Path) -> None:
    gate = path.with_name(path.name.replace("measuring", "gate"))
    with no_measurement():
        assert free(path, fcntl.LOCK_SH)
        assert not free(path)
        assert free(gate, fcntl.LOCK_SH)  # left open: a measurement that waits can shut it
    assert free(path)


def test_sole_measurement_shuts_the_gate_when_it_waits_for_a_step(tmp_path: Path) -> None:
    measured = threading.Event()

    def measure() -> None:
        with sole_measurement():
            measured.set()

    with no_measurement():
        waiting = threading.Thread(target=measure)
        waiting.start()
        while free(tmp_path / "private" / "gate.lock", fcntl.LOCK_SH):  # until the measurement has shut it
            time.sleep(0.001)
        assert not measured.is_set()
    waiting.join(10.0)
    assert measured.is_set()


@contextmanager
def measured_by_another(folder: Path, prefix: str = "") -> Iterator[None]:
    """Both locks of a folder, held as another process holds them."""
    with ExitStack() as held:
        for name in ("gate", "measuring"):
            file = held.enter_context((folder / f"{prefix}{name}.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(("folder", "prefix"), [("private", ""), ("shared", "paretopress-")])
def test_sole_measurement_waits_when_another_process_or_user_measures(tmp_path: Path, folder: str, prefix: str) -> None:
    measured = threading.Event()

    def measure() -> None:
        with sole_measurement():
            measured.set()

    with measured_by_another(tmp_path / folder, prefix):
        waiting = threading.Thread(target=measure)
        waiting.start()
        assert not measured.wait(0.1)
    assert measured.wait(10.0)
    waiting.join(10.0)


def test_sole_measurement_goes_on_when_another_user_never_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.05)
    with measured_by_another(tmp_path / "shared", "paretopress-"):
        for _ in range(3):
            with sole_measurement():
                assert not free(tmp_path / "private" / "measuring.lock")  # this user's own jobs still exclude one another
            with no_measurement():
                pass
        assert lock._given_up
        assert len([r for r in caplog.records if "held by another" in r.getMessage()]) == 2  # the gate's and the other's, once each
    with sole_measurement():
        assert not free(tmp_path / "shared" / "paretopress-measuring.lock")
    assert not lock._given_up


def block(path: Path, how: str) -> None:
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to(path.with_name("elsewhere"))
    elif how == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize("how", ["folder", "link", "pipe"])
@pytest.mark.parametrize("name", ["gate", "measuring"])
def test_sole_measurement_goes_on_when_the_shared_lock_is_no_file(
    tmp_path: Path, how: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    block(tmp_path / "shared" / f"paretopress-{name}.lock", how)
    with caplog.at_level(logging.WARNING), sole_measurement():
        assert not free(tmp_path / "private" / "measuring.lock")
    with no_measurement():
        pass
    assert not (tmp_path / "shared" / "elsewhere").exists()
    assert [record.getMessage() for record in caplog.records if "is blocked" in record.getMessage()]


def test_sole_measurement_goes_on_when_the_shared_folder_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Any, flags: int, mode: int = 0o777) -> int:
        if "shared" in str(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode)

    opened = os.open
    monkeypatch.setattr(os, "open", refused)
    with sole_measurement(), (tmp_path / "private" / "measuring.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sole_measurement_takes_the_new_file_when_the_old_one_was_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_measurement():
        pass
    removed, flock = [], fcntl.flock

    def tidied(descriptor: Any, kind: int) -> None:
        if not removed and os.fstat(descriptor).st_ino == path.stat().st_ino:
            removed.append(path)
            path.unlink()
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", tidied)
    with sole_measurement():
        monkeypatch.setattr(fcntl, "flock", flock)
        assert removed
        assert not free(path)


def test_the_shared_lock_can_be_read_by_all_when_the_umask_forbids_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with sole_measurement():
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "shared" / "paretopress-measuring.lock").stat().st_mode & 0o777 == 0o644


def test_lock_file_is_the_same_when_the_temporary_folders_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first = lock_file()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert lock_file() == first
    assert first is not None


def test_private_folder_passes_over_a_folder_that_others_can_write_to(tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert lock._is_private(place, os.getuid())
    assert place.stat().st_mode & 0o777 == 0o700
    assert not lock._is_private(place, os.getuid() + 1)  # another's
    place.chmod(0o777)
    assert not lock._is_private(place, os.getuid())
    (tmp_path / "link").symlink_to(tmp_path / "place")
    assert not lock._is_private(tmp_path / "link", os.getuid())
    assert not lock._is_private(tmp_path / "missing" / "place", os.getuid())


def test_sole_measurement_goes_on_with_a_warning_when_no_folder_is_private(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "private_folder", lambda: None)
    with sole_measurement(), no_measurement_refused():
        pass
    assert "no folder is this user's alone" in caplog.text


@contextmanager
def no_measurement_refused() -> Iterator[None]:
    assert not free(lock.SHARED_FOLDER / "paretopress-measuring.lock", fcntl.LOCK_SH)
    yield


@pytest.mark.parametrize("function", ["measure", "measure_baseline"])
def test_local_target_holds_the_lock_when_it_measures(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def spy(*_: Any, **__: Any) -> None:
        held.append(not free(tmp_path / "private" / "measuring.lock"))

    monkeypatch.setattr(local, "measure", spy)
    files = [Path("a.onnx")] if function == "measure_baseline" else [Path("a.onnx"), Path("b.onnx")]
    options = {} if function == "measure_baseline" else {"baseline_ms": 1.0, "limit_ms": None}
    getattr(LocalTarget(), function)(*files, feed={}, rng=None, **options)
    assert held == [True]
