"""What is read ahead: in its order, with its errors, by processes that end."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from paretopress.errors import RecoveryError
from paretopress.system import read_ahead as module
from paretopress.system.read_ahead import processes_to_read, read_ahead

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing is read ahead without fork")


def squares(key: int) -> tuple[Tensor, Tensor]:
    time.sleep(0.01 * (key % 3))
    return torch.full((2,), float(key**2)), torch.tensor(os.getpid())


def test_read_ahead_keeps_the_order_and_leaves_the_generators_as_they_were() -> None:
    before = torch.get_rng_state()
    with read_ahead(squares, [5, 3, 8, 1, 7], 2, nullcontext) as read:
        found = list(read)
    assert [float(value[0]) for value, _ in found] == [25.0, 9.0, 64.0, 1.0, 49.0]
    assert len({int(pid) for _, pid in found}) == 2
    assert os.getpid() not in {int(pid) for _, pid in found}
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_end_with_the_block_however_much_is_unread() -> None:
    with read_ahead(squares, range(100), 2, nullcontext) as read:
        pids = {int(next(read)[1]) for _ in range(4)}
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_read_ahead_raises_what_reading_raised() -> None:
    def fails(key: int) -> Tensor:
        if key == 2:
            raise RecoveryError("the training data must load, but got ValueError: no such photo", "Look at it.")
        return torch.tensor(key)

    with read_ahead(fails, range(4), 1, nullcontext) as read, pytest.raises(RecoveryError, match="no such photo") as caught:
        list(read)
    assert caught.value.hint == "Look at it."


def test_read_ahead_says_that_a_process_died() -> None:
    def dies(key: int) -> Tensor:
        os._exit(3)

    with read_ahead(dies, range(4), 1, nullcontext) as read, pytest.raises(RuntimeError, match="worker"):
        list(read)


def test_each_reading_enters_what_it_is_told_to(tmp_path: Path) -> None:
    @contextmanager
    def around() -> Iterator[None]:
        tmp_path.joinpath(f"{time.monotonic_ns()}").touch()
        yield

    with read_ahead(squares, range(3), 1, around) as read:
        list(read)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("free", "processes"), [(1 << 40, 2), (700, 1), (500, 0)])
def test_processes_are_as_many_as_shared_memory_has_room_for(monkeypatch: pytest.MonkeyPatch, free: int, processes: int) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 2)
    assert processes_to_read(100) == processes


def test_nothing_is_read_ahead_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    assert processes_to_read(1) == 0


def test_read_ahead_works_while_a_thread_reads_standard_input() -> None:
    program = """
import sys, threading, time
from contextlib import nullcontext
import torch
from paretopress.system.read_ahead import read_ahead
threading.Thread(target=sys.stdin.buffer.readline, daemon=True).start()
time.sleep(0.2)
with read_ahead(torch.tensor, [3, 1, 2], 2, nullcontext) as read:
    print([int(value) for value in read])
assert sys.stdin is not None
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "[3, 1, 2]\n"
    finally:
        process.kill()
        process.communicate()
