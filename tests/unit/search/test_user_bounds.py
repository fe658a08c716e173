"""What is reported meets the user's own bounds; where nothing does, the time is used and the nearest are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from four_layers import SPACE

from paretopress.core.outcome import Budget, Latency, Metric, Miss, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.search.candidates import Bounds, Candidate, best, front, promising_front
from paretopress.search.fidelity.finalists import next_finalist
from paretopress.search.fidelity.latency_pooling import chance_within, reserve
from paretopress.search.limits import Limits
from paretopress.search.study.create import create_study
from paretopress.search.study.nearest import miss_sentence, nearest_points
from paretopress.search.study.search import Search

BOUNDS = Bounds(Budget(speedup=2.0, max_drop=1.0), 10.0, 90.0)


def outcome(accuracy: float, latency_ms: float, rung: Rung = Rung.SHORT, *, spread: float = 0.01, rejected: str = "") -> Outcome:
    ratio, low, high = latency_ms / 10.0, 1.0 - spread, 1.0 + spread
    interval = (latency_ms * low, latency_ms * high)
    latency = Latency(latency_ms, interval, ratio, (ratio * low, ratio * high), latency_ms, latency_ms, 10.0, 8, 100, 0.1)
    return Outcome(rung, accuracy, 100, 10, latency, 1_000, "model.onnx", f"{accuracy}-{latency_ms}", rejected)


def candidate(number: int, accuracy: float, latency_ms: float, rung: Rung = Rung.SHORT, **options: float) -> Candidate:
    return Candidate(number, Plan(kept={"a": number + 1}), outcome(accuracy, latency_ms, rung, **options))  # type: ignore[arg-type]


def test_front_leaves_out_a_short_rung_that_only_the_wider_bound_allows() -> None:
    short, final = candidate(1, 85.0, 2.0), candidate(2, 88.5, 2.5, Rung.FINAL)
    assert promising_front([short, final], BOUNDS) == [short]
    assert front([short, final], BOUNDS) == []
    assert best(front([short, final], BOUNDS), BOUNDS, 5_000) is None


def test_promising_allows_more_at_a_short_rung_that_trains_nothing() -> None:
    untrained, trained = candidate(1, 80.0, 2.0), candidate(2, 86.0, 3.0, Rung.LONG)
    assert promising_front([untrained, trained], BOUNDS) == []
    assert promising_front([untrained, trained], replace(BOUNDS, short_trains=False)) == [untrained]
    assert front([untrained, trained], replace(BOUNDS, short_trains=False)) == []


def test_front_holds_what_meets_the_own_bounds_at_any_rung() -> None:
    points = [candidate(0, 89.5, 3.0), candidate(1, 89.2, 2.0, Rung.FINAL)]
    assert front(points, BOUNDS) == [points[1], points[0]]


def test_misses_name_the_bound_and_both_figures_when_several_are_missed() -> None:
    bounds = Bounds(Budget(latency_ms=5.0, max_drop=1.0, size_bytes=500), 10.0, 90.0)
    assert bounds.misses(outcome(88.5, 5.0)) == (
        Miss("latency_ms", 5.05, 5.0),
        Miss("size_bytes", 1_000.0, 500.0),
        Miss("max_drop", 1.5, 1.0),
    )


def test_nearest_points_go_by_the_shares_that_they_miss() -> None:
    points = [
        candidate(0, 88.8, 4.0),
        candidate(1, 89.5, 5.1),
        candidate(2, 80.0, 2.0),
        Candidate(3, Plan(), outcome(90.0, 1.0, rejected="slow")),
    ]
    assert [c.number for c in nearest_points(points, BOUNDS)] == [1, 0, 2]  # 3 %, 20 % and ten times over
    assert nearest_points([*points, candidate(4, 89.5, 4.5)], BOUNDS) == []


def test_miss_sentence_names_the_trial_the_bound_and_by_how_much() -> None:
    said = miss_sentence(candidate(7, 88.5, 5.1), BOUNDS)
    assert said == (
        "trial 7 (88.50 % at 5.100 ms (1.96x)): its latency interval reaches 5.151 ms, 3.0 % over the 5.000 ms allowed and it loses "
        "1.5 points, 0.5 more than the 1 allowed"
    )
    in_millimetres = replace(BOUNDS, metric=Metric("error", "mm", False), baseline_accuracy=-3.0)
    assert "it loses 2.5 mm, 1.5 more than the 1 allowed" in miss_sentence(candidate(7, -5.5, 4.0), in_millimetres)


def test_chance_within_is_half_when_the_later_interval_would_just_fit() -> None:
    once = outcome(90.0, 4.0, spread=0.1).latency
    assert chance_within(once, 4.0, 6) < 0.3
    assert chance_within(once, 4.0 * (1.1 ** (1 / 6**0.5)), 6) == pytest.approx(0.5, abs=1e-6)
    assert chance_within(once, 6.0, 6) > 0.99


def test_reserve_shrinks_with_the_root_of_the_occasions() -> None:
    assert reserve(0.06, 1) == pytest.approx(1.1248, abs=1e-4)  # exp(1.96 * 0.06)
    assert reserve(0.06, 4) == pytest.approx(reserve(0.06, 1) ** 0.5)


def test_next_finalist_is_the_one_that_surely_fits_while_nothing_is_within() -> None:
    # 0 is faster but is expected to lose 0.95 of the 1.0 allowed; 1 is almost at the limit; 2 is safe on both
    candidates = [candidate(0, 88.1, 2.0, Rung.LONG), candidate(1, 88.9, 4.9, Rung.LONG, spread=0.05), candidate(2, 88.8, 4.0, Rung.LONG)]
    chosen = next_finalist(candidates, {}, BOUNDS, 10_000)
    assert chosen is not None
    assert chosen.number == 2


def test_next_finalist_takes_one_astride_the_limit_when_none_else_is_left() -> None:
    astride = candidate(0, 88.8, 4.9, Rung.LONG, spread=0.05)
    assert promising_front([astride], BOUNDS) == []
    assert next_finalist([astride], {}, BOUNDS, 10_000) == astride


def test_next_finalist_is_astride_the_limit_when_all_lost_too_much() -> None:
    # 12 and 18 points where 6 are allowed: the one that lost less, though the upper end of its latency's interval is over the limit
    astride, below = candidate(0, 78.0, 4.8, spread=0.1), candidate(1, 72.0, 4.3, spread=0.1)
    assert next_finalist([astride, below], {}, BOUNDS, 10_000) == astride


def searched(tmp_path: Path, evaluate: object, limits: Limits, clock: list[float]) -> Search:
    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    return Search(study, SPACE, evaluate, BOUNDS, limits, 10_000, clock=lambda: clock[0])  # type: ignore[arg-type]


def test_trials_do_not_stop_early_when_nothing_is_within(tmp_path: Path) -> None:
    for accuracy, trials in ((88.0, 90), (89.5, 60)):  # two points lost are promising at a short rung, but not within one
        place = tmp_path / str(accuracy)
        place.mkdir()

        def same(plan: Plan, rung: Rung, number: int, accuracy: float = accuracy) -> Outcome:
            return replace(outcome(accuracy, 4.0, rung), onnx_sha256=f"{number}-{int(rung)}")

        run = searched(place, same, Limits(trials=90, finalists=0), [0.0])
        run.run([])
        assert (run.counts().all, run.early_stop() is None) == (trials, accuracy == 88.0)


def test_run_spends_the_time_left_until_the_interval_is_decided(tmp_path: Path) -> None:
    now = [0.0]

    def astride(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 10.0
        return replace(outcome(89.5, 4.85, rung, spread=0.02), onnx_sha256=f"{number}-{int(rung)}")

    def again(found: Outcome) -> Latency:
        now[0] += 1.0
        return outcome(89.5, 4.85, spread=0.02).latency

    run = searched(tmp_path, astride, Limits(seconds=200.0, finalists=1), now)
    run.measure_again = again
    run.run([])
    assert run.times.elapsed_s <= 202.0
    (decided, *_) = front(run.candidates(), BOUNDS)
    assert decided.outcome.latency.occasions > 3
    assert decided.outcome.latency.latency_ci_ms[1] <= BOUNDS.limit_ms


def test_run_uses_all_of_its_time_when_nothing_is_within(tmp_path: Path) -> None:
    now = [0.0]

    def fails_in_the_end(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 1.0 if rung < Rung.FINAL else 20.0
        return replace(outcome(88.5 if rung is Rung.FINAL else 89.5, 4.0, rung), onnx_sha256=f"{number}-{int(rung)}")

    limits = Limits(seconds=1_000.0, finalist_share=0.1, finalists=1)
    run = searched(tmp_path, fails_in_the_end, limits, now)
    run.run([])
    assert run.early_stop() is not None
    assert front(run.candidates(), BOUNDS)  # others that were not recovered in full are within, by what was measured of them
    assert run.times.end_s < 1_000.0
    run.times.satisfied = lambda: False
    assert run.times.end_s == 1_000.0


# without a bound on the time the three after the finalist are all, beside its own
@pytest.mark.parametrize(("limits", "occasions"), [(Limits(seconds=200.0, finalists=1), 6), (Limits(trials=6, finalists=1), 4)])
def test_run_measures_its_final_points_more_often_when_time_is_left(limits: Limits, occasions: int, tmp_path: Path) -> None:
    now = [0.0]

    def good(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 50.0 if rung is Rung.FINAL else 5.0
        return replace(outcome(89.5 + 0.01 * number, 4.0, rung), onnx_sha256=f"{number}-{int(rung)}")

    run = searched(tmp_path, good, limits, now)
    run.measure_again = lambda found: found.latency
    run.recover_in_part = None
    run.run([])
    (final,) = (c for c in front(run.candidates(), BOUNDS) if c.outcome.rung is Rung.FINAL)
    assert final.outcome.latency.occasions == occasions
