"""Pareto dominance and the hypervolume of a front; every objective here is minimised."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

Point = tuple[float, ...]


def dominates(a: Point, b: Point) -> bool:
    """Return whether `a` is no worse than `b` everywhere and better somewhere (all minimised)."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points that no other point dominates, in ascending order; of equal points the first stays."""
    if not points:
        return []
    values = np.asarray(points, dtype=float)
    # in lexicographic order no point comes after one that it dominates, and equal points keep their order
    left = np.lexsort(values.T[::-1])
    front = []
    while left.size:
        front.append(int(left[0]))
        left = left[(values[left] < values[left[0]]).any(axis=1)]
    return sorted(front)


def running_hypervolumes_2d(points: Sequence[tuple[float, float] | None], reference: tuple[float, float]) -> list[float]:
    """Return the area that the first 1, 2, ... points dominate up to `reference`, both objectives minimised; a None adds nothing.

    Each entry is `hypervolume_2d` of the points so far. The points' staircase is kept, so that of n points with f on the front it takes
    n * log(f) steps, and the few that leave the staircase.
    """
    stairs: list[tuple[float, float]] = []  # by ascending x, and so by descending y
    area, areas = 0.0, []
    for point in points:
        if point is not None and point[0] < reference[0] and point[1] < reference[1]:
            x, y = point
            at = bisect_left(stairs, point)
            above = stairs[at - 1][1] if at else reference[1]
            if y < above and not (at < len(stairs) and stairs[at] == point):
                end = at
                while end < len(stairs) and stairs[end][1] >= y:
                    end += 1
                edges = [x, *(stair[0] for stair in stairs[at:end]), stairs[end][0] if end < len(stairs) else reference[0]]
                heights = [above, *(stair[1] for stair in stairs[at:end])]
                area += sum((right - left) * (height - y) for left, right, height in zip(edges, edges[1:], heights, strict=False))
                stairs[at:end] = [point]
        areas.append(area)
    return areas


def hypervolume_2d(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that the points dominate up to `reference`, both objectives minimised.

    Points that are not better than the reference in both objectives add nothing.
    Source: Zitzler and Thiele 1998, "Multiobjective optimization using evolutionary algorithms", the S metric.
    """
    inside = sorted({p for p in points if p[0] < reference[0] and p[1] < reference[1]})
    area, ceiling = 0.0, reference[1]
    for x, y in inside:
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area
