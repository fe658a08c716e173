"""The picture of a front: accuracy against measured latency, with everything that was compared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from paretopress.core.outcome import Metric
from paretopress.report.labels import Label, place_labels
from paretopress.system.atomic_files import write_bytes

# Okabe and Ito 2008, "Color Universal Design": these stay apart under every common colour blindness; the shapes differ as well
FRONT, BASELINE, BEST, BUDGET, FAINT, INK = "#0072B2", "#D55E00", "#E69F00", "#4D4D4D", "#B0B0B0", "#222222"
OUTSIDE = "#CC79A7"
SPEEDUPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
MIN_TICK_GAP = 0.06
MARKER_RADIUS_PT, BEST_RADIUS_PT = 4.0, 8.5
# the accuracies shown span at least such a share of the largest: about a point of a score in percent
_LEAST_SPAN = 0.01
DPI = 160
TITLE: dict[str, Any] = {"fontsize": 13, "weight": "bold", "color": INK}
SUBTITLE: dict[str, Any] = {"fontsize": 8.5, "color": "#555555"}

Row = Mapping[str, Any]


def write_front_png(front: Mapping[str, Any], path: Path) -> None:
    """Write the picture that `draw_front` makes of a front.json object (schema 1) to `path`.

    Raises: RunError: the file cannot be written.
    """
    picture = io.BytesIO()
    FigureCanvasAgg(draw_front(_as_read(front))).print_figure(picture, dpi=DPI, format="png", metadata={"Software": None})
    write_bytes(path, picture.getvalue())


def _as_read(front: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a front whose scores are those of its metric, where lower is better too."""
    metric = Metric(**front.get("metric", {}))

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        scores = {key: row.get(key) for key in ("val_accuracy", "test_accuracy")}
        return dict(row) | {key: metric.value(score) for key, score in scores.items() if score is not None}

    lists = {key: [read(row) for row in front.get(key) or ()] for key in ("points", "nearest", "evaluated")}
    return dict(front) | lists | {"baseline": read(front["baseline"])}


def draw_front(front: Mapping[str, Any]) -> Figure:
    """Return the figure of a front.json object (schema 1).

    Filled markers are validation accuracy in the metric's unit, hollow ones test accuracy, bars the 95 % interval of the latency in
    milliseconds. If `front["evaluated"]` lists {latency_ms, val_accuracy}, those trials are drawn as faint dots; dots that
    would squeeze the front are left out and counted in the legend.
    """
    # the object interface: pyplot would keep the figure in a process-wide list and might pick a backend that needs a screen
    figure = Figure(figsize=(8.4, 5.6), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    _set_limits(axes, front)
    _draw_rows(axes, front["points"], FRONT, "o", "front")  # the order of the calls is that of the legend
    _draw_rows(axes, front.get("nearest", ()), OUTSIDE, "X", "outside the budget")
    _draw_rows(axes, [front["baseline"]], BASELINE, "s", "baseline")
    _draw_best(axes, front)
    _draw_evaluated(axes, front)
    _draw_budget(axes, front)
    _decorate(figure, axes, front)
    figure.draw_without_rendering()  # the constrained layout must be settled before labels are placed in pixels
    place_labels(axes, _labels(front), _obstacles(axes, front))
    return figure


def _rows(front: Mapping[str, Any]) -> list[Row]:
    return [front["baseline"], *front["points"], *front.get("nearest", ())]


def _name(metric: Metric) -> str:
    return "Accuracy" if metric.name == Metric().name else metric.name


def _accuracies(row: Row) -> list[float]:
    return [row[key] for key in ("val_accuracy", "test_accuracy") if row[key] is not None]


def _set_limits(axes: Axes, front: Mapping[str, Any]) -> None:
    accuracies = [accuracy for row in _rows(front) for accuracy in _accuracies(row)]
    low, high = min(accuracies), max(accuracies)
    span = max(high - low, _LEAST_SPAN * max(abs(low), abs(high)), 1e-9)
    # room below for the near misses; an untrained 10 % would flatten the front into a line
    top = high + 0.14 * span
    if Metric(**front.get("metric", {})).unit == "%":
        top = min(top, 100 + 0.05 * span)
    axes.set_ylim(low - (0.35 if front.get("evaluated") else 0.14) * span, top)
    slowest = max(row["latency_ci_ms"][1] for row in _rows(front))
    axes.set_xlim(0.0, 1.06 * max(slowest, front["budget"]["limit_ms"]))


def _draw_budget(axes: Axes, front: Mapping[str, Any]) -> None:
    limit = front["budget"]["limit_ms"]
    axes.axvspan(limit, axes.get_xlim()[1], color="#F3F3F3", linewidth=0, zorder=0)
    axes.axvline(limit, color=BUDGET, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label=f"budget {limit:.3g} ms")


def _draw_evaluated(axes: Axes, front: Mapping[str, Any]) -> None:
    dots = [(dot["latency_ms"], dot["val_accuracy"]) for dot in front.get("evaluated") or ()]
    if not dots:
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = [(x, y) for x, y in dots if left <= x <= right and bottom <= y <= top]
    hidden = len(dots) - len(inside)
    label = "other trials" + (f" ({hidden} outside the picture)" if hidden else "")
    axes.scatter([x for x, _ in inside], [y for _, y in inside], s=13, color=FAINT, alpha=0.75, linewidths=0, zorder=1.5, label=label)


def _draw_rows(axes: Axes, rows: Sequence[Row], color: str, marker: str, name: str) -> None:
    if not rows:
        return
    x = [row["latency_ms"] for row in rows]
    val = [row["val_accuracy"] for row in rows]
    bars = [[row["latency_ms"] - row["latency_ci_ms"][0] for row in rows], [row["latency_ci_ms"][1] - row["latency_ms"] for row in rows]]
    style: dict[str, Any] = {"marker": marker, "linestyle": "none", "markersize": 7.5, "color": color}
    axes.errorbar(x, val, xerr=bars, fmt="none", ecolor=color, elinewidth=1.3, capsize=2.5, zorder=4)
    axes.plot(x, val, **style, zorder=4, label=f"{name}, validation")
    tested = [row for row in rows if row["test_accuracy"] is not None]
    if not tested:
        return
    x_test, test = [row["latency_ms"] for row in tested], [row["test_accuracy"] for row in tested]
    axes.vlines(x_test, [row["val_accuracy"] for row in tested], test, color=color, linewidth=0.8, alpha=0.45, zorder=2)
    axes.plot(x_test, test, **style, markerfacecolor="white", markeredgewidth=1.5, zorder=3, label=f"{name}, test")


def _best(front: Mapping[str, Any]) -> Row | None:
    return next((point for point in front["points"] if point["trial"] == front["best"]), None)


def _draw_best(axes: Axes, front: Mapping[str, Any]) -> None:
    if best := _best(front):
        x, y = [best["latency_ms"]], [best["val_accuracy"]]
        axes.plot(x, y, "o", markersize=14, markerfacecolor="none", color=BEST, markeredgewidth=2.2, zorder=5, label="best in budget")


def _decorate(figure: Figure, axes: Axes, front: Mapping[str, Any]) -> None:
    environment = front["environment"]
    threads = environment.get("threads")
    conditions = [environment.get("cpu"), threads and f"{threads} thread{'s' if threads > 1 else ''}", "95 % intervals, numbers are trials"]
    subtitle = ("" if front["points"] else "No plan met the budget. ") + ", ".join(part for part in conditions if part)
    # not a title and a suptitle: those align with different edges and do not know of the axis on top
    metric = Metric(**front.get("metric", {}))
    title = f"{_name(metric)} against measured latency"
    for text, height_pt, style in ((title, 38, TITLE), (subtitle, 23, SUBTITLE)):
        axes.annotate(text, (0, 1), (0, height_pt), xycoords="axes fraction", textcoords="offset points", **style)
    axes.set_xlabel("latency of one batch, p50 (ms)", color=INK)
    name, unit = _name(metric).lower() if metric.name == Metric().name else metric.name, f" ({metric.unit})" if metric.unit else ""
    axes.set_ylabel(f"{name}{unit}", color=INK)
    axes.grid(color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    fastest_ms = min(front["budget"]["limit_ms"], *(row["latency_ms"] for row in _rows(front)))
    _speedup_axis(axes, front["baseline"]["latency_ms"], fastest_ms)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _speedup_axis(axes: Axes, baseline_ms: float, fastest_ms: float) -> None:
    right = axes.get_xlim()[1]
    ticks: list[tuple[float, str]] = []
    for speedup in SPEEDUPS:
        x = baseline_ms / speedup
        if 0.7 * fastest_ms <= x <= right and (not ticks or ticks[-1][0] - x >= MIN_TICK_GAP * right):
            ticks.append((x, f"{speedup:g}x"))
    top = axes.secondary_xaxis("top")
    top.xaxis.set_major_locator(FixedLocator([x for x, _ in ticks]))
    top.xaxis.set_minor_formatter(NullFormatter())
    top.set_xticks([x for x, _ in ticks], [name for _, name in ticks], fontsize=8, color="#555555")
    top.tick_params(color="#AAAAAA", length=3, pad=1)
    top.spines["top"].set_visible(False)


def _labels(front: Mapping[str, Any]) -> list[Label]:
    best = _best(front)
    rows = [*((row, FRONT) for row in front["points"] if row is not best), *((row, OUTSIDE) for row in front.get("nearest", ()))]
    labels = [Label(row["latency_ms"], row["val_accuracy"], str(row["trial"]), colour) for row, colour in rows]
    if best:  # first, so that it gets the place it likes most
        labels.insert(0, Label(best["latency_ms"], best["val_accuracy"], f"{best['trial']} (best)", INK, "bold"))
    baseline = front["baseline"]
    return [*labels, Label(baseline["latency_ms"], baseline["val_accuracy"], "baseline", BASELINE)]


def _obstacles(axes: Axes, front: Mapping[str, Any]) -> list[Bbox]:
    to_pixels = axes.transData.transform
    boxes = []
    for row in _rows(front):
        ends = [to_pixels((row["latency_ms"], accuracy)) for accuracy in _accuracies(row)]
        boxes += [_around(end, MARKER_RADIUS_PT) for end in ends]
        (x, _), heights = ends[0], [y for _, y in ends]
        boxes.append(Bbox.from_extents(x - 2, min(heights), x + 2, max(heights)))
        (low, y), (high, _) = to_pixels([(end, row["val_accuracy"]) for end in row["latency_ci_ms"]])
        boxes.append(Bbox.from_extents(low, y - 3, high, y + 3))
    if best := _best(front):
        boxes.append(_around(to_pixels((best["latency_ms"], best["val_accuracy"])), BEST_RADIUS_PT))
    return boxes


def _around(centre: NDArray[Any], radius_pt: float) -> Bbox:
    (x, y), radius = centre, radius_pt * DPI / 72
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
