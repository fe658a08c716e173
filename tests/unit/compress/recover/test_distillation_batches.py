from __future__ import annotations

import itertools
import os
import random
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from paretopress.compress.recover.distillation_batches import DistillationBatches
from paretopress.errors import RecoveryError


class Augmented(Dataset[tuple[Tensor, int]]):
    """Ten images whose value is their index plus noise that is drawn anew; counts how often it was read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        return torch.full((1, 2, 2), float(index)) + 0.1 * torch.rand(1, 2, 2), index % 3


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1)[:, :3]


def made(train: Dataset[tuple[Tensor, int]], teacher: nn.Module) -> DistillationBatches:
    return DistillationBatches(teacher, train, 4, torch.device("cpu"), bf16=False)


def first(taught_batches: DistillationBatches, count: int, seed: int = 0, start: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(x, y, outputs[0]) for x, y, outputs in itertools.islice(taught_batches.taught_batches(seed, start), count)]


def test_taught_batches_are_the_same_whatever_was_drawn_between() -> None:
    one = first(made(Augmented(), Counting()), 5)
    torch.rand(7)
    two = first(made(Augmented(), Counting()), 5)
    assert all(torch.equal(a, b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True))


class AugmentedByOthers(Augmented):
    """The same, with noise from numpy's and Python's generators."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 2, 2), index + 0.1 * random.random() + 0.1 * float(np.random.rand())), index % 3


def test_distillation_batches_repeat_when_augmentation_draws_elsewhere() -> None:
    random.seed(1), np.random.seed(1)
    expected = (random.random(), float(np.random.rand()))
    random.seed(1), np.random.seed(1)
    one = first(made(AugmentedByOthers(), Counting()), 5)
    assert (random.random(), float(np.random.rand())) == expected
    two = first(made(AugmentedByOthers(), Counting()), 5)
    assert all(torch.equal(a, b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True))
    assert not torch.equal(one[0][0], one[1][0])


def test_taught_batches_read_and_teach_once_when_two_students_learn() -> None:
    train, teacher = Augmented(), Counting()
    taught_batches = made(train, teacher)
    first(taught_batches, 5), first(taught_batches, 5)
    assert (train.reads, teacher.calls) == (20, 5)


def test_taught_batches_read_a_batch_in_one_call_where_they_can() -> None:
    class Together(Augmented):
        def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
            self.reads += 1
            return [(torch.full((1, 2, 2), float(index)), index % 3) for index in indices]

    train = Together()
    x, y, _ = first(made(train, Counting()), 1)[0]
    assert train.reads == 1
    assert torch.equal(y, x[:, 0, 0, 0].long() % 3)
    assert len(set(x[:, 0, 0, 0].tolist())) == 4


def test_taught_batches_hold_every_image_once_when_an_epoch_ends() -> None:
    values = torch.cat([x.flatten(1)[:, 0] for x, _, _ in first(made(Augmented(), Counting()), 2)]).floor()
    assert len(set(values.tolist())) == 8  # two batches of four out of ten; the last two are dropped


def test_taught_batches_differ_when_the_seed_or_the_epoch_does() -> None:
    taught_batches = made(Augmented(), Counting())
    batches = [first(taught_batches, 1)[0][0], first(taught_batches, 1, seed=1)[0][0], first(taught_batches, 1, start=2)[0][0]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(batches, 2))


@pytest.mark.parametrize(
    ("kept_bytes", "reads", "calls"),
    [(100, 4 + 2 * 8, 6), (0, 2 * 12, 6), (400, 12, 4)],  # a batch: 4 images of 4 floats and 4 labels, 96 bytes; its logits 48
    ids=["one batch", "nothing", "all batches and two batches' logits"],
)
def test_taught_batches_are_drawn_again_alike_when_memory_is_full(kept_bytes: int, reads: int, calls: int) -> None:
    train, teacher = Augmented(), Counting()
    taught_batches = DistillationBatches(teacher, train, 4, torch.device("cpu"), bf16=False, kept_bytes=kept_bytes)
    once, twice = first(taught_batches, 3), first(taught_batches, 3)
    assert (train.reads, teacher.calls) == (reads, calls)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(once, twice, strict=True))


def test_taught_batches_leave_the_process_s_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    first(made(Augmented(), Counting()), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_taught_batches_name_the_cause_when_the_data_set_fails() -> None:
    class Broken(Augmented):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            raise OSError("the disk is gone")

    with pytest.raises(RecoveryError, match="training data must load, but got OSError: the disk is gone"):
        first(made(Broken(), Counting()), 1)


class Slow(Augmented):
    """Sixty images that take a while to read; the first pixel is the process that read them."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.01)
        image, label = super().__getitem__(index)
        image[0, 0, 0] = float(os.getpid())
        return image, label


def handed_out(batches: DistillationBatches, count: int, start: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    with batches.reading(0, start, count, nullcontext) as reading:
        found = []
        for _ in range(count):
            reading.wait()
            x, y, outputs = reading.taught()
            found.append((x, y, outputs[0]))
    return found


def pixels(batches: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
    return [x[:, 0, 1] for x, _, _ in batches]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paretopress.system.read_ahead.torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("paretopress.system.read_ahead.os.cpu_count", lambda: 2)


@pytest.mark.usefixtures("two_threads")
def test_slow_batches_are_read_by_others_and_are_the_same() -> None:
    here = first(made(Slow(), Counting()), 12)
    there = handed_out(made(Slow(), Counting()), 12)
    assert all(map(torch.equal, pixels(here), pixels(there)))
    assert all(torch.equal(one[1], other[1]) for one, other in zip(here, there, strict=True))
    readers = {float(x[0, 0, 0, 0]) for x, _, _ in there}
    assert float(os.getpid()) in readers  # the first, whose time was taken
    assert len(readers) == 3


@pytest.mark.usefixtures("two_threads")
def test_batches_that_were_read_by_others_are_kept() -> None:
    batches = made(Slow(), Counting())
    handed_out(batches, 12)
    began = time.monotonic()
    handed_out(batches, 12)
    assert time.monotonic() - began < 0.1


def test_quick_batches_are_read_here() -> None:
    train = Augmented()
    handed_out(made(train, Counting()), 12)
    assert train.reads == 48


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_another_process_names_the_cause() -> None:
    class Broken(Slow):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if self.reads > 8:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(RecoveryError, match="training data must load, but got OSError: the disk is gone"):
        handed_out(made(Broken(), Counting()), 12)


def test_batches_that_memory_has_no_room_for_are_read_from_the_disk(tmp_path: Path) -> None:
    train = Augmented()
    batches = DistillationBatches(Counting(), train, 4, torch.device("cpu"), bf16=False, kept_bytes=100, folder=tmp_path)
    once, twice = first(batches, 3), first(batches, 3)
    assert train.reads == 12
    assert all(torch.equal(a, b) for left, right in zip(once, twice, strict=True) for a, b in zip(left, right, strict=True))


@pytest.mark.usefixtures("two_threads")
def test_batches_are_read_here_where_the_process_that_read_them_died(caplog: pytest.LogCaptureFixture) -> None:
    here = os.getpid()

    class Dies(Slow):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if os.getpid() != here and self.reads > 8:
                os._exit(3)
            return super().__getitem__(index)

    batches = made(Dies(), Counting())
    found = handed_out(batches, 12)
    assert all(map(torch.equal, pixels(found), pixels(first(made(Slow(), Counting()), 12))))
    assert "read in this process from now on" in caplog.text
    handed_out(batches, 12, start=20)
    assert len(caplog.records) == 1
