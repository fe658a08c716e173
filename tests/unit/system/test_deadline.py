from __future__ import annotations

from paretopress.system.deadline import NO_DEADLINE, Deadline


def test_left_s_falls_with_the_clock_when_there_is_a_deadline() -> None:
    now = [10.0]
    until = Deadline.after(5.0, lambda: now[0])
    assert (until.left_s, until.passed, until.finite) == (5.0, False, True)
    now[0] = 16.0
    assert (until.left_s, until.passed) == (-1.0, True)


def test_share_and_sooner_end_before_the_deadline() -> None:
    now = [0.0]
    until = Deadline.after(8.0, lambda: now[0])
    assert until.sooner(3.0).left_s == 5.0
    assert until.share(0.25).left_s == 2.0
    now[0] = 20.0
    assert until.share(0.25).left_s == 0.0


def test_no_deadline_never_passes() -> None:
    assert not NO_DEADLINE.passed
    assert not NO_DEADLINE.finite
    assert NO_DEADLINE.share(0.1) == NO_DEADLINE
