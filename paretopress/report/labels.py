"""Labels beside the points of a plot, placed so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

# from the point outwards in printer's points; a label whose edge is LEADER_FROM away gets a thin line
RADII = (11.0, 14.0, 20.0, 28.0, 38.0, 50.0)
LEADER_FROM = 9.0
DIRECTIONS = 16
MARGIN_PX = 1.5
OUTSIDE_COST = 4.0
DISTANCE_COST_PX2 = 1.5


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str
    weight: str = "normal"


def place_labels(axes: Axes, labels: Sequence[Label], obstacles: Sequence[Bbox]) -> list[Bbox]:
    """Write the labels into `axes`, one after another where they cover least, and return their boxes in pixels.

    Args:
        obstacles: boxes in pixels to keep free, such as those of the markers. The layout of the figure must be final.
    """
    taken = list(obstacles)
    placed = []
    for label in labels:
        note = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            color=label.color,
            weight=label.weight,
            zorder=6,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        note.set_in_layout(False)
        size = note.get_window_extent()
        (dx, dy), box = _cheapest(axes, label, size, taken)
        note.set_position((dx, dy))
        _leader(axes, label, box)
        taken.append(box)
        placed.append(box)
    return placed


def _cheapest(axes: Axes, label: Label, size: Bbox, taken: Sequence[Bbox]) -> tuple[tuple[float, float], Bbox]:
    pixels_per_point = axes.figure.dpi / 72
    x, y = axes.transData.transform((label.x, label.y))
    best: tuple[float, tuple[float, float], Bbox] | None = None
    for dx, dy in _offsets(size.width / 2 / pixels_per_point):
        cx, cy = x + dx * pixels_per_point, y + dy * pixels_per_point
        box = Bbox.from_extents(cx - size.width / 2, cy - size.height / 2, cx + size.width / 2, cy + size.height / 2)
        cost = sum(_overlap(box, other) for other in taken) + DISTANCE_COST_PX2 * math.hypot(dx, dy)
        cost += OUTSIDE_COST * (size.width * size.height - _overlap(box, axes.bbox, margin=0.0))
        if best is None or cost < best[0]:
            best = cost, (dx, dy), box
    assert best is not None
    return best[1], best[2]


def _offsets(half_width: float) -> Iterator[tuple[float, float]]:
    # an ellipse that is wider than high by half the text, so that its near edge and not its middle keeps the distance
    for radius in RADII:
        for step in range(DIRECTIONS):
            angle = math.pi / 2 - 2 * math.pi * step / DIRECTIONS
            yield (radius - 5 + half_width) * math.cos(angle), radius * math.sin(angle)


def _overlap(a: Bbox, b: Bbox, margin: float = MARGIN_PX) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0) + margin
    height = min(a.y1, b.y1) - max(a.y0, b.y0) + margin
    return max(0.0, float(width)) * max(0.0, float(height))


def _leader(axes: Axes, label: Label, box: Bbox) -> None:
    x, y = axes.transData.transform((label.x, label.y))
    edge_x, edge_y = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
    if math.hypot(edge_x - x, edge_y - y) * 72 / axes.figure.dpi < LEADER_FROM:
        return
    (end,) = axes.transData.inverted().transform([(edge_x, edge_y)])
    axes.plot([label.x, end[0]], [label.y, end[1]], color=label.color, linewidth=0.7, alpha=0.55, zorder=2)
