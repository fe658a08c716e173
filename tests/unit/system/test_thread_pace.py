"""How many threads train, on a clock that is advanced by hand: the steps of each number of threads take what the test says."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from paretopress.system.thread_pace import ThreadPace, counts_up_to, threads_beside


@pytest.mark.parametrize(("foreign", "most", "expected"), [(0.1, 4, 4), (1.0, 4, 3), (2.6, 4, 1), (4.0, 4, 1), (1.0, 2, 2)])
def test_threads_beside_others_are_as_many_as_the_cores_that_are_left(
    foreign: float, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert threads_beside(foreign, most) == expected


class Machine:
    """Others use so many cores; a step with n threads takes `step_s(n)`."""

    def __init__(self, most: int, step_s: Callable[[int], float], foreign: float | None = 0.0) -> None:
        self.now, self.step_s, self.foreign = 0.0, step_s, foreign
        self.set: list[int] = []
        self.said: list[str] = []
        self.pace = ThreadPace(most, lambda: self.foreign, self.said.append, self.set.append, lambda: self.now)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            with self.pace.step():
                self.now += self.step_s(self.pace.threads)


def shared(seconds: dict[int, float]) -> Callable[[int], float]:
    return lambda threads: seconds[threads]


QUIET, BUSY = shared({1: 0.2, 2: 0.12}), shared({1: 0.21, 2: 0.4})


@pytest.mark.parametrize(("most", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_counts_up_to_are_powers_of_two_and_the_most(most: int, expected: tuple[int, ...]) -> None:
    assert counts_up_to(most) == expected


def test_step_leaves_the_threads_alone_when_the_machine_is_quiet() -> None:
    machine = Machine(2, QUIET)
    machine.train(2_000)
    assert machine.set == []
    assert machine.said == []


def test_step_follows_the_cores_that_others_take_and_leave() -> None:
    machine = Machine(2, QUIET)
    machine.train(50)
    machine.step_s, machine.foreign = BUSY, 0.7
    machine.train(50)
    assert machine.pace.threads == 1
    assert len(machine.said) == 1
    assert "1 of 2 threads" in machine.said[0]
    assert "others use 0.7 cores" in machine.said[0]
    machine.step_s, machine.foreign = QUIET, 0.0
    machine.train(50)
    assert machine.pace.threads == 2
    assert len(machine.said) == 2


def test_step_keeps_its_threads_when_fewer_are_no_quicker_beside_others() -> None:
    machine = Machine(2, shared({1: 0.33, 2: 0.23}), foreign=1.0)
    machine.train(100)
    assert machine.pace.threads == 2
    assert machine.said == []
    assert 1 in machine.set  # it was tried


def test_step_goes_down_by_one_count_at_a_time_when_there_are_many() -> None:
    machine = Machine(8, lambda threads: {8: 0.9, 4: 0.5, 2: 0.3, 1: 0.4}[threads], foreign=6.0)
    machine.train(400)
    assert machine.pace.threads == 2
    assert len(machine.said) == 2


def test_step_compares_when_steps_become_slower_though_the_load_is_unknown() -> None:
    machine = Machine(2, QUIET, foreign=None)
    machine.train(200)
    assert machine.set == []
    machine.step_s = BUSY
    machine.train(10)
    assert machine.pace.threads == 1


def test_student_drops_the_times_of_the_one_before() -> None:
    machine = Machine(2, BUSY, foreign=0.7)
    while 1 not in machine.set:
        machine.train(1)
    machine.pace.student()  # in the middle of the comparison: times of two students are not compared
    assert machine.pace.threads == 2
    assert machine.said == []
    machine.train(200)
    assert machine.pace.threads == 1


def test_student_begins_with_the_cores_that_others_leave_when_threads_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    machine = Machine(2, BUSY, foreign=1.3)
    machine.pace.spins = True
    machine.pace.student()
    assert machine.set == [1]
    assert "1 of 2 threads" in machine.said[0]
    machine.step_s, machine.foreign = QUIET, 0.0
    machine.train(50)
    assert machine.pace.threads == 2
