from __future__ import annotations

import pytest

from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError
from paretopress.search.candidates import RUNGS, Bounds, RungScores
from paretopress.search.fidelity import ladder
from paretopress.search.fidelity.ladder import RungLadder

BOUNDS = Bounds(Budget(latency_ms=5.0), 10.0, 90.0)
# at costs a plan loses ten times as much, after a short recovery twice as much, as after a long one
CLIMBED = [RungScores({Rung.COSTS: 90.0 - 10 * d, Rung.SHORT: 90.0 - 2 * d, Rung.LONG: 90.0 - d}, 4.0 - 0.1 * d) for d in range(1, 10)]
# three that stayed at the short rung, because the rungs agree: the next one goes on
STAYED = [RungScores({Rung.COSTS: 0.0, Rung.SHORT: 0.0}, 4.9)] * 3
SEEN = [*CLIMBED, *STAYED]


def evaluated(drops: dict[Rung, float], latency_ms: float, asked: list[Rung], rejected: str = "") -> object:
    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        asked.append(rung)
        ratio = latency_ms / 10.0
        latency = Latency(latency_ms, (latency_ms, latency_ms), ratio, (ratio, ratio), latency_ms, latency_ms, 10.0, 8, 100, 0.1)
        return Outcome(rung, 90.0 - drops[rung], 100, 10, latency, 1_000, "model.onnx", "0", rejected)

    return evaluate


@pytest.mark.parametrize(
    ("drops", "latency_ms", "highest", "rejected"),
    [
        ({Rung.COSTS: 10.0, Rung.SHORT: 2.0, Rung.LONG: 1.0}, 3.85, Rung.LONG, False),  # more accurate than all that are faster
        ({Rung.COSTS: 40.0}, 3.95, Rung.COSTS, True),  # four points in the end: others lost less, and are faster
        ({Rung.COSTS: 10.0, Rung.SHORT: 8.0}, 3.85, Rung.SHORT, False),  # it looked well, and was not
        ({Rung.COSTS: 80.0, Rung.SHORT: 17.0, Rung.LONG: 9.0}, 1.0, Rung.LONG, False),  # faster than anything
    ],
)
def test_climb_goes_as_far_as_the_plan_can_join_the_front(
    drops: dict[Rung, float], latency_ms: float, highest: Rung, rejected: bool
) -> None:
    asked: list[Rung] = []
    outcome, accuracies = RungLadder(evaluated(drops, latency_ms, asked), RUNGS, BOUNDS, SEEN).climb(Plan(), 9)  # type: ignore[arg-type]
    assert asked == [rung for rung in RUNGS if rung <= highest]
    assert outcome.rung is highest
    assert bool(outcome.rejected) is rejected
    assert accuracies == {rung: 90.0 - drop for rung, drop in drops.items()}


def test_climb_ends_at_once_when_the_plan_is_over_the_budget() -> None:
    asked: list[Rung] = []
    evaluate = evaluated({Rung.COSTS: 0.0}, 6.0, asked, "over the latency budget")
    outcome, _ = RungLadder(evaluate, RUNGS, BOUNDS, []).climb(Plan(), 0)  # type: ignore[arg-type]
    assert (asked, outcome.rejected) == ([Rung.COSTS], "over the latency budget")


def test_climb_takes_all_rungs_when_nothing_is_known_yet() -> None:
    asked: list[Rung] = []
    drops = {Rung.COSTS: 60.0, Rung.SHORT: 30.0, Rung.LONG: 20.0}
    RungLadder(evaluated(drops, 4.9, asked), RUNGS, BOUNDS, []).climb(Plan(), 0)  # type: ignore[arg-type]
    assert tuple(asked) == RUNGS


@pytest.mark.parametrize(
    ("seen", "highest"),
    [
        (CLIMBED, Rung.SHORT),
        ([*CLIMBED, *STAYED[:2]], Rung.SHORT),
        ([*CLIMBED, *STAYED[:2], RungScores({Rung.COSTS: 0.0}, 4.9)], Rung.SHORT),  # one that was never trained does not count
        (SEEN, Rung.LONG),
        (CLIMBED[:7], Rung.LONG),  # too few to say that the rungs agree
        ([*CLIMBED, RungScores({Rung.COSTS: 85.0, Rung.SHORT: 85.0, Rung.LONG: 10.0}, 3.0)], Rung.LONG),  # they do not agree
    ],
)
def test_climb_sends_one_plan_in_four_on_when_the_rungs_agree(seen: list[RungScores], highest: Rung) -> None:
    asked: list[Rung] = []
    drops = {Rung.COSTS: 10.0, Rung.SHORT: 2.0, Rung.LONG: 1.0}
    outcome, _ = RungLadder(evaluated(drops, 2.9, asked), RUNGS, BOUNDS, seen).climb(Plan(), 9)  # type: ignore[arg-type]
    assert (asked[-1], outcome.rung, outcome.rejected) == (highest, highest, "")


def test_climb_goes_by_the_newest_plans_when_many_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_MOST_SEEN", len(SEEN))
    # of the oldest, which are slow, those lost least that had looked worst
    old = [RungScores({Rung.COSTS: 90.0 - 10 * d, Rung.SHORT: 70.0 + 2 * d}, 9.0) for d in range(1, 10)] * 3
    for seen, highest in ((SEEN, Rung.COSTS), ([*old, *SEEN], Rung.COSTS), (old, Rung.LONG)):
        asked: list[Rung] = []
        evaluate = evaluated({Rung.COSTS: 40.0, Rung.SHORT: 1.0, Rung.LONG: 1.0}, 3.95, asked)
        RungLadder(evaluate, RUNGS, BOUNDS, seen).climb(Plan(), 9)  # type: ignore[arg-type]
        assert asked[-1] is highest


def test_climb_keeps_what_a_rung_showed_when_there_is_no_time_for_the_next() -> None:
    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.LONG:
            raise OutOfTimeError("30% of 9 steps must fit into the rest of the run, but got 0 s")
        return evaluated({Rung.COSTS: 60.0, Rung.SHORT: 30.0}, 4.9, [])(plan, rung, number)  # type: ignore[no-any-return, operator]

    outcome, accuracies = RungLadder(evaluate, RUNGS, BOUNDS, []).climb(Plan(), 0)
    assert outcome.rung is Rung.SHORT
    assert list(accuracies) == [Rung.COSTS, Rung.SHORT]


def test_climb_raises_when_there_is_no_time_to_train_at_all() -> None:
    def evaluate(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is not Rung.COSTS:
            raise OutOfTimeError("30% of 9 steps must fit into the rest of the run, but got 0 s")
        return evaluated({Rung.COSTS: 60.0}, 4.9, [])(plan, rung, number)  # type: ignore[no-any-return, operator]

    with pytest.raises(OutOfTimeError):
        RungLadder(evaluate, RUNGS, BOUNDS, []).climb(Plan(), 0)
