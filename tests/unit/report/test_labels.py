"""Labels keep clear of each other and of what they must not cover."""

from itertools import combinations

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from paretopress.report.labels import Label, place_labels


def placed(points: list[tuple[float, float]], text: str = "123") -> tuple[list[Bbox], list[Bbox], Bbox]:
    """Return the boxes of the labels, of 8 pixel markers and of the axes, on a plot of (0..1, 0..1)."""
    figure = Figure(figsize=(6, 4), dpi=100)
    axes = figure.add_subplot()
    figure.draw_without_rendering()
    markers = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in (axes.transData.transform(point) for point in points)]
    return place_labels(axes, [Label(x, y, text, "black") for x, y in points], markers), markers, axes.bbox


def collide(a: Bbox, b: Bbox) -> bool:
    return bool(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)


def test_place_labels_covers_nothing_when_points_are_close() -> None:
    points = [(0.3 + 0.02 * i, 0.5 + 0.01 * (i % 3)) for i in range(8)]
    labels, markers, _ = placed(points)
    assert not any(collide(a, b) for a, b in combinations(labels, 2))
    assert not any(collide(label, marker) for label in labels for marker in markers)


def test_place_labels_sits_right_above_when_there_is_room() -> None:
    (label,), (marker,), _ = placed([(0.5, 0.5)])
    assert (label.x0 + label.x1) / 2 == (marker.x0 + marker.x1) / 2
    assert 0 < label.y0 - marker.y1 < 10


def test_place_labels_stays_inside_when_the_point_is_in_a_corner() -> None:
    labels, _, axes = placed([(1.0, 1.0), (0.0, 0.0)], text="a long label")
    for label in labels:
        assert axes.x0 <= label.x0
        assert label.x1 <= axes.x1
        assert axes.y0 <= label.y0
        assert label.y1 <= axes.y1
