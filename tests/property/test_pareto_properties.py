"""Pareto fronts and hypervolumes against brute force on integer points."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from paretopress.core.pareto import hypervolume_2d, non_dominated, running_hypervolumes_2d

LEAST, SIDE = -2, 8
COORDINATE = st.integers(LEAST, SIDE + 1)
PLANE = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=12)
SPACE = st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), max_size=10)


def _beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a != b and all(max(x, y) == y for x, y in zip(a, b, strict=True))


def _cells(points: list[tuple[int, int]], reference: tuple[int, int]) -> int:
    """Count the unit cells below the reference whose lower corner some point reaches; no coordinate is below LEAST."""
    corners = ((i, j) for i in range(LEAST, reference[0]) for j in range(LEAST, reference[1]))
    return sum(any(x <= i and y <= j for x, y in points) for i, j in corners)


@given(SPACE)
def test_non_dominated_equals_brute_force_when_points_are_integers(points: list[tuple[int, int, int]]) -> None:
    unbeaten = {p for p in points if not any(_beats(q, p) for q in points)}
    assert non_dominated(points) == sorted(points.index(p) for p in unbeaten)


@given(PLANE, st.randoms(use_true_random=False))
def test_non_dominated_keeps_the_same_points_when_the_order_changes(points: list[tuple[int, int]], random: Random) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)
    assert {points[i] for i in non_dominated(points)} == {shuffled[i] for i in non_dominated(shuffled)}


@given(PLANE, st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)))
def test_hypervolume_2d_equals_the_cell_count_when_points_are_integers(points: list[tuple[int, int]], reference: tuple[int, int]) -> None:
    floats = [(float(x), float(y)) for x, y in points]
    assert hypervolume_2d(floats, (float(reference[0]), float(reference[1]))) == _cells(points, reference)


@given(PLANE)
def test_hypervolume_2d_is_that_of_the_front(points: list[tuple[int, int]]) -> None:
    floats = [(float(x), float(y)) for x, y in points]
    front = [floats[i] for i in non_dominated(floats)]
    assert hypervolume_2d(floats, (SIDE, SIDE)) == hypervolume_2d(front, (SIDE, SIDE))


@given(st.lists(st.none() | st.tuples(COORDINATE, COORDINATE), max_size=12), st.tuples(COORDINATE, COORDINATE))
def test_running_hypervolumes_2d_pass_over_missing_points(points: list[tuple[int, int] | None], reference: tuple[int, int]) -> None:
    end = (float(reference[0]), float(reference[1]))
    floats = [None if p is None else (float(p[0]), float(p[1])) for p in points]
    wanted = [hypervolume_2d([p for p in floats[: n + 1] if p is not None], end) for n in range(len(floats))]
    assert running_hypervolumes_2d(floats, end) == wanted
