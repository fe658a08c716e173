"""Choose a learning rate by short recoveries, judged on items that they were not made with."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from paretopress.compress.recover.finetune import TRIED_ALPHA, TRIED_TEMPERATURE, Recovery
from paretopress.errors import RecoveryError
from paretopress.system.deadline import NO_DEADLINE, Deadline


def learning_rate_test(
    make_student: Callable[[], nn.Module],
    recovery_of: Callable[[float], Recovery],
    rates: tuple[float, ...],
    steps: int,
    loss_of: Callable[[nn.Module], float],
    deadline: Deadline = NO_DEADLINE,
) -> dict[float, float]:
    """Return learning rate -> loss after a short recovery (infinite where it diverged); the smallest loss wins.

    It should be that on other items: on those that a student trains on a high rate wins where they are few, for it learns them by heart.
    Rates are tried from the middle outwards. One that the deadline cuts off is not judged, nor are those after it.

    Args:
        make_student: returns a fresh, mildly compressed copy of the baseline each time.
        loss_of: judges a student, see `Recovery.held_out_loss`.
    """
    losses: dict[float, float] = {}
    centre = (len(rates) - 1) / 2.0
    for rate in sorted(rates, key=lambda rate: (abs(rates.index(rate) - centre), -rate)):
        student = make_student()
        try:
            report = recovery_of(rate).run(
                student, temperature=TRIED_TEMPERATURE, alpha=TRIED_ALPHA, steps=steps, seed=0, deadline=deadline
            )
        except RecoveryError:
            losses[rate] = math.inf
            continue
        if report.steps < steps:
            break
        loss = loss_of(student)
        losses[rate] = loss if math.isfinite(loss) else math.inf
    return {rate: losses[rate] for rate in rates if rate in losses}
