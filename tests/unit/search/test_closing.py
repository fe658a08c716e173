"""What a search reports in the end, where files are gone or scores cannot be had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from four_layers import BOUNDS, made_up

from paretopress.errors import RunError, TargetLostError
from paretopress.measurement import Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Candidate
from paretopress.search.closing import reported

# each faster and less accurate than the one before; of 10 ms they may take 9.09
PLANS = [Plan(kept=dict.fromkeys(layers, 0)) for layers in ("a", "ab", "abc")]


def candidates(plans: list[Plan]) -> list[Candidate]:
    return [Candidate(number, plan, made_up(plan, Rung.FINAL, number)) for number, plan in enumerate(plans)]


def has_every_file(_: Outcome) -> None:
    pass


def test_reported_are_the_front_with_test_scores_when_every_file_is_there() -> None:
    found = reported(candidates(PLANS), BOUNDS, has_every_file, lambda outcome: outcome.val_accuracy - 1.0)
    assert [(c.number, c.outcome.test_accuracy) for c in found.points] == [(2, 86.0), (1, 87.0), (0, 88.0)]
    assert (found.nearest, found.left_out) == ([], {})


def test_reported_leaves_out_what_has_no_file_and_shows_what_it_dominated() -> None:
    pool = candidates(PLANS)
    slower = Candidate(3, Plan(kept={"b": 0}), replace(pool[0].outcome, val_accuracy=88.5, onnx_sha256="slower"))

    def have(outcome: Outcome) -> None:
        if outcome == pool[0].outcome:
            raise RunError("an artifact must be there, but trials/0000/model.onnx is not")
        if outcome == pool[2].outcome:
            raise OSError("503 slow down")

    found = reported([*pool, slower], BOUNDS, have, lambda _: 80.0)
    assert [c.number for c in found.points] == [1, 3]
    assert found.left_out == {
        0: "RunError: an artifact must be there, but trials/0000/model.onnx is not",
        2: "OSError: 503 slow down",
    }


def test_reported_are_the_nearest_when_the_only_point_within_has_no_file() -> None:
    pool = candidates([Plan(), PLANS[0]])

    def have(outcome: Outcome) -> None:
        if outcome == pool[1].outcome:
            raise RunError("it is gone")

    found = reported(pool, BOUNDS, have, lambda _: 80.0)
    assert ([c.number for c in found.points], [c.number for c in found.nearest]) == ([], [0])


def test_reported_asks_for_a_few_files_alone_when_the_store_is_gone() -> None:
    asked = []

    def gone(outcome: Outcome) -> None:
        asked.append(outcome)
        raise OSError("no route to host")

    # one behind the other, so that each is a front of its own
    first = made_up(PLANS[0], Rung.FINAL, 0)
    pool = [Candidate(n, Plan(kept={"a": n}), replace(first, val_accuracy=89.0 - n)) for n in range(50)]
    found = reported(pool, BOUNDS, gone, lambda _: 80.0)
    assert (found.points, found.nearest, list(found.left_out)) == ([], [], [0, 1, 2])
    assert len(asked) == 3


@pytest.mark.parametrize("score", [float("nan"), RuntimeError("CUDA is not there")])
def test_reported_keeps_a_point_without_its_test_score_when_that_cannot_be_had(score: float | Exception) -> None:
    def scores(outcome: Outcome) -> float:
        if outcome.onnx_sha256.endswith("1") and isinstance(score, Exception):
            raise score
        return float(score) if outcome.onnx_sha256.endswith("1") and not isinstance(score, Exception) else 80.0

    found = reported(candidates(PLANS), BOUNDS, has_every_file, scores)
    assert [c.outcome.test_accuracy for c in found.points] == [80.0, None, 80.0]
    (note,) = found.points[1].outcome.notes
    assert note.startswith("it has no test score: ")


def test_reported_raises_when_the_target_that_scores_is_lost() -> None:
    def lost(_: Outcome) -> float:
        raise TargetLostError("the target must be in reach")

    with pytest.raises(TargetLostError):
        reported(candidates(PLANS), BOUNDS, has_every_file, lost)
