"""What a search reports in the end, where files are gone or scores cannot be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from four_layers import BOUNDS, made_up

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import RunError, TargetLostError
from paretopress.search.candidates import Candidate
from paretopress.search.study.closing import final_report

# each faster and less accurate than the one before; of 10 ms they may take 9.09
PLANS = [Plan(kept=dict.fromkeys(layers, 0)) for layers in ("a", "ab", "abc")]


def candidates(plans: list[Plan]) -> list[Candidate]:
    return [Candidate(number, plan, made_up(plan, Rung.FINAL, number)) for number, plan in enumerate(plans)]


BASELINE = replace(made_up(Plan(), Rung.FINAL, 99), onnx_path="baseline.onnx")


def has_every_file(_: Outcome) -> None:
    pass


def scores(outcomes: Sequence[Outcome]) -> Mapping[str, float | RunError]:
    return {outcome.onnx_sha256: outcome.val_accuracy - 1.0 for outcome in outcomes}


def test_reported_are_the_front_with_test_scores_when_every_file_is_there() -> None:
    asked: list[int] = []

    def counted(outcomes: Sequence[Outcome]) -> Mapping[str, float | RunError]:
        asked.append(len(outcomes))
        return scores(outcomes)

    found = final_report(candidates(PLANS), BOUNDS, BASELINE, has_every_file, counted)
    assert [(c.number, c.outcome.test_accuracy) for c in found.points] == [(2, 86.0), (1, 87.0), (0, 88.0)]
    assert (found.baseline.test_accuracy, found.nearest, found.lost) == (89.0, [], {})
    assert asked == [4]  # in one pass over the data


def test_reported_leaves_out_what_has_no_file_and_shows_what_it_dominated() -> None:
    pool = candidates(PLANS)
    slower = Candidate(3, Plan(kept={"b": 0}), replace(pool[0].outcome, val_accuracy=88.5, onnx_sha256="slower"))

    def have(outcome: Outcome) -> None:
        if outcome == pool[0].outcome:
            raise RunError("an artifact must be there, but trials/0000/model.onnx is not")
        if outcome == pool[2].outcome:
            raise OSError("503 slow down")

    found = final_report([*pool, slower], BOUNDS, BASELINE, have, scores)
    assert [c.number for c in found.points] == [1, 3]
    assert found.lost == {0: "an artifact must be there, but trials/0000/model.onnx is not", 2: "OSError: 503 slow down"}


def test_reported_are_the_nearest_when_the_only_point_within_has_no_file() -> None:
    pool = candidates([Plan(), PLANS[0]])

    def have(outcome: Outcome) -> None:
        if outcome == pool[1].outcome:
            raise RunError("it is gone")

    found = final_report(pool, BOUNDS, BASELINE, have, scores)
    assert ([c.number for c in found.points], [c.number for c in found.nearest]) == ([], [0])


def test_reported_asks_for_a_few_files_alone_when_the_store_is_gone() -> None:
    asked = []

    def gone(outcome: Outcome) -> None:
        asked.append(outcome)
        raise OSError("no route to host")

    # one behind the other, so that each is a front of its own
    first = made_up(PLANS[0], Rung.FINAL, 0)
    pool = [Candidate(n, Plan(kept={"a": n}), replace(first, val_accuracy=89.0 - n)) for n in range(50)]
    found = final_report(pool, BOUNDS, BASELINE, gone, scores)
    assert (found.points, found.nearest, list(found.lost)) == ([], [], [0, 1, 2])
    assert found.baseline.test_accuracy == 89.0
    assert len(asked) == 3


@pytest.mark.parametrize("score", [float("nan"), float("inf"), RunError("a session must run its feed")])
def test_final_report_leaves_out_what_has_no_test_score(score: float | RunError) -> None:
    pool = candidates(PLANS)

    def some(outcomes: Sequence[Outcome]) -> Mapping[str, float | RunError]:
        without = {BASELINE.onnx_sha256, pool[1].outcome.onnx_sha256}
        return {**scores(outcomes), **{o.onnx_sha256: score for o in outcomes if o.onnx_sha256 in without}}

    found = final_report(pool, BOUNDS, BASELINE, has_every_file, some)
    assert [c.number for c in found.points] == [2, 0]
    assert found.baseline.test_accuracy is None
    said = str(score) if isinstance(score, RunError) else f"a score must be a finite number, but got test_accuracy={score}"
    assert found.lost == {1: said}


def test_reported_raises_when_the_target_that_scores_is_lost() -> None:
    def lost(_: Sequence[Outcome]) -> Mapping[str, float | RunError]:
        raise TargetLostError("the target must be in reach")

    with pytest.raises(TargetLostError):
        final_report(candidates(PLANS), BOUNDS, BASELINE, has_every_file, lost)
