from __future__ import annotations

import math

import pytest
from scipy.stats import t as student_t

from paretopress.core.outcome import Rung
from paretopress.search.fidelity.promotion import agreement, optimistic_drop, reason_to_stop

HALVED = [(float(d), d / 2.0) for d in range(2, 12)]  # ten plans, each of which lost half as much at the higher rung


def test_agreement_is_spearmans_rank_correlation() -> None:
    # ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15) = 0.8
    found = agreement(Rung.SHORT, Rung.LONG, [(1.0, 0.1), (2.0, 0.9), (3.0, 0.5), (4.0, 2.0)])
    assert (found.plans, found.rank_correlation) == (4, pytest.approx(0.8))


@pytest.mark.parametrize("pairs", [[], [(1.0, 1.0), (2.0, 2.0)], [(1.0, 1.0)] * 5])
def test_agreement_has_no_correlation_when_there_is_nothing_to_rank(pairs: list[tuple[float, float]]) -> None:
    assert agreement(Rung.SHORT, Rung.LONG, pairs).rank_correlation is None


def test_optimistic_drop_is_unknown_when_few_plans_were_seen() -> None:
    assert optimistic_drop(5.0, HALVED[:4], 0.5) is None
    assert optimistic_drop(5.0, HALVED[:5], 0.5) is not None


def test_optimistic_drop_lies_on_the_line_when_the_rungs_agree_exactly() -> None:
    assert optimistic_drop(8.0, HALVED, 0.5) == pytest.approx(4.0)


def test_optimistic_drop_is_the_lower_end_of_the_prediction_interval() -> None:
    # logs: x = 0 for half of the plans and 1 for the others, y = x +- 0.2
    pairs = [(math.e**x, math.e ** (x + sign * 0.2)) for x in (0.0, 1.0) for sign in (1, -1) for _ in range(2)]
    error = math.sqrt(8 * 0.04 / 6 * (1 + 1 / 8 + 0.25 / 2.0))
    assert optimistic_drop(math.e, pairs, 0.5) == pytest.approx(math.exp(1.0 + student_t.ppf(0.1, 6) * error))


def test_optimistic_drop_does_not_fall_when_the_plan_lost_more() -> None:
    reversed_rungs = [(float(d), 12.0 - d) for d in range(2, 12)]
    known = [optimistic_drop(drop, reversed_rungs, 0.5) for drop in (6.0, 8.0)]
    assert known[0] == pytest.approx(known[1], rel=0.2)


def test_reason_to_stop_names_the_rival_that_is_better_in_both() -> None:
    reason = reason_to_stop(8.0, 2.0, HALVED, [(3.0, 1.5), (1.0, 3.0)], math.inf, floor=0.5)
    assert reason.startswith("cannot join the front: a drop of 8.0, at best 4.0 after the next rung (predicted)")
    assert reason.endswith("another lost 3.0 at 1.500 ms")


@pytest.mark.parametrize(
    ("drop", "latency_ms", "rivals"),
    [(8.0, 1.4, [(3.0, 1.5)]), (8.0, 2.0, [(4.5, 1.5)]), (8.0, 2.0, [])],
    ids=["faster than the rival", "may end more accurate", "no rival"],
)
def test_reason_to_stop_is_empty_when_the_plan_may_still_do_it(drop: float, latency_ms: float, rivals: list[tuple[float, float]]) -> None:
    assert reason_to_stop(drop, latency_ms, HALVED, rivals, math.inf, floor=0.5) == ""


def test_reason_to_stop_says_so_when_the_best_hope_is_past_the_bound() -> None:
    assert reason_to_stop(8.0, 2.0, HALVED, [], 3.9, floor=0.5).endswith("at best 4.0 after the next rung (predicted), 3.9 allowed")
    assert reason_to_stop(8.0, 2.0, HALVED, [], 4.1, floor=0.5) == ""
