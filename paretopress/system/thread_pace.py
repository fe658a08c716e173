"""Choose the number of training threads by timing real steps, again whenever other processes take cores or leave them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

import torch

# Another number of threads is taken if its steps are so much quicker; it is judged by so many steps, the first of which wakes the threads.
_QUICKER, _JUDGED_STEPS = 0.9, 3
# What others take of the processors is looked at so often; a change by so many cores, or steps that take so many times the quickest
# lately, is a reason to compare. With others at work, or fewer threads than there could be, it is done again after a while.
_LOOKS_EVERY_S, _CHANGED_CORES, _SLOWER, _AGAIN_S = 2.0, 0.4, 1.6, 20.0


def counts_up_to(most: int) -> tuple[int, ...]:
    """Return the numbers of threads that are compared: powers of two, and `most`."""
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return (*powers, most)


@dataclass(slots=True)
class ThreadPace:
    """Sets the threads of torch in this process, at most `most`.

    Two threads that wait for each other at every operator pay twice where a third process runs on one of their cores: on two cores a step
    of a small residual network took 118 ms, beside one busy process 374 ms with two threads and 207 ms with one, beside two 424 and 334.
    On an idle machine nothing is compared while training, so sums come out the same in their last bits.

    Args:
        foreign_cores: returns what others took of the processors since it was asked last, in cores; None where that is unknown.
        on_change: is told in a sentence when the number changes.
        spins: threads spin while they wait, see `waiting_asleep`: the first student begins with as many as the cores that others leave.
    """

    most: int
    foreign_cores: Callable[[], float | None] = lambda: None
    on_change: Callable[[str], None] = lambda _: None
    set_threads: Callable[[int], None] = torch.set_num_threads
    clock: Callable[[], float] = time.monotonic
    spins: bool = False
    threads: int = field(init=False)
    _foreign: float = field(init=False, default=0.0)
    _chosen_beside: float = field(init=False, default=0.0)
    _next_look_s: float = field(init=False, default=0.0)
    _compared_s: float = field(init=False, default=0.0)
    _steps_s: dict[int, list[float]] = field(init=False, default_factory=dict)
    _waiting: list[int] = field(init=False, default_factory=list)
    _home: int = field(init=False)
    _quickest_s: float = field(init=False, default=math.inf)

    def __post_init__(self) -> None:
        self.threads = self._home = self.most

    def student(self) -> None:
        """Begin with another student, whose steps take another time; a comparison that was under way is dropped."""
        self._steps_s, self._waiting, self._quickest_s = {}, [], math.inf
        if self.spins and self.most > 1:
            self.spins, self._foreign = False, self.foreign_cores() or 0.0
            self._home, self._chosen_beside = threads_beside(self._foreign, self.most), self._foreign
            if self._home < self.most:
                self.on_change(f"training begins with {self._home} of {self.most} threads, because others use {self._foreign:.1f} cores")
        self._use(self._home)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time the step of training in the block, and set the threads of the next one."""
        if self.most == 1:
            yield
            return
        started = self.clock()
        yield
        self.took(self.clock() - started)

    def took(self, step_s: float) -> None:
        """Take the seconds of one step with the threads that are set."""
        lately = [*self._steps_s.get(self.threads, ()), step_s][-_JUDGED_STEPS:]
        self._steps_s[self.threads] = lately
        if self._waiting or self.threads != self._home:
            if len(lately) >= _JUDGED_STEPS:
                self._next_or_choose()
            return
        self._quickest_s = min(self._quickest_s, step_s)
        if len(lately) >= _JUDGED_STEPS and self._should_compare():
            self._compare()

    def _should_compare(self) -> bool:
        now = self.clock()
        if now >= self._next_look_s:
            self._next_look_s = now + _LOOKS_EVERY_S
            found = self.foreign_cores()
            self._foreign = self._foreign if found is None else found
        if abs(self._foreign - self._chosen_beside) > _CHANGED_CORES:
            return True
        slower = min(self._steps_s[self.threads]) > _SLOWER * self._quickest_s
        unsettled = self._foreign > _CHANGED_CORES or self._home < self.most or slower
        return unsettled and now - self._compared_s >= _AGAIN_S

    def _compare(self) -> None:
        self._compared_s, self._chosen_beside = self.clock(), self._foreign
        counts = counts_up_to(self.most)
        place = counts.index(self._home)
        self._waiting = [counts[at] for at in (place - 1, place + 1) if 0 <= at < len(counts)]
        self._steps_s = {self._home: self._steps_s[self._home]}
        self._next_or_choose()

    def _next_or_choose(self) -> None:
        if self._waiting:
            self._use(self._waiting.pop(0))
            return
        seconds = {count: fmean(steps[1:]) for count, steps in self._steps_s.items() if len(steps) > 1}
        best = min(seconds, key=seconds.__getitem__)
        chosen = best if seconds[best] < _QUICKER * seconds[self._home] else self._home
        if chosen != self._home:
            self.on_change(
                f"training goes on with {chosen} of {self.most} threads: a step takes {seconds[chosen]:.3f} s, with {self._home} it took "
                f"{seconds[self._home]:.3f} s, while others use {self._foreign:.1f} cores"
            )
        self._home = chosen
        self._steps_s, self._quickest_s = {}, math.inf
        self._use(chosen)

    def _use(self, threads: int) -> None:
        if threads != self.threads:
            self.threads = threads
            self.set_threads(threads)


def threads_beside(foreign_cores: float, most: int) -> int:
    """Return how many threads to begin with where others use so many cores: as many as the cores that are left, `most` at most."""
    if foreign_cores <= _CHANGED_CORES:
        return most
    return max(min(round((os.cpu_count() or 1) - foreign_cores), most), 1)


@contextmanager
def threads_as_before() -> Iterator[None]:
    """Give torch the number of threads back that it had before the block: the process may be the user's."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
