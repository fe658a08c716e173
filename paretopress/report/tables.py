"""The tables that a person reads: the front of a search, and where a model's time goes layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from paretopress.core.outcome import Metric, decimals_for, drop_between
from paretopress.core.plan import FLOAT_BITS

MAX_NAMED_RANKS = 2


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """What one layer costs, or all that belongs to no layer under a name that says so.

    Attributes:
        macs, params: of one input (batch 1).
        latency_ms: measured, per batch; None where the runtime gives the layer no time of its own.
        share: `latency_ms` as a share in [0, 1] of the sum of all rows, None with it.
        int8_saves_ms, half_saves_ms, removal_saves_ms: what int8, half the channels, or removing its residual branch saves at this
            layer; negative where it costs, None where the knob does not apply.
    """

    name: str
    kind: str
    macs: int
    params: int
    latency_ms: float | None
    share: float | None
    int8_saves_ms: float | None = None
    half_saves_ms: float | None = None
    removal_saves_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ProfileSums:
    """What the rows add up to, and what they are compared with; all measured.

    Attributes:
        whole_ms: p50 of the whole model without the profiler.
        nodes_ms, raw_nodes_ms: the sum of all nodes, without and with what the profiler adds to each.
        peak_gmacs: giga multiply-adds per second of a chain of large convolutions.
    """

    whole_ms: float
    nodes_ms: float
    raw_nodes_ms: float
    peak_gmacs: float


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Return a plan's JSON object in a few words, such as "2 branches removed, 3 groups pruned, 12 int8"; "unchanged" if it does nothing.

    Bits are counted in bit groups, as the plan holds them, and ranks are spelled out up to two layers.
    """
    kept = plan.get("kept", {}).values()
    bits = [value for value in plan.get("bits", {}).values() if value != FLOAT_BITS]
    removed = sum(channels == 0 for channels in kept)
    parts = [
        _counted(removed, "branch removed", "branches removed"),
        _counted(len(kept) - removed, "group pruned", "groups pruned"),
        *(_counted(bits.count(width), f"int{width}", f"int{width}") for width in sorted(set(bits), reverse=True)),
        _ranks(plan.get("rank", {})),
        f"resolution {plan['resolution']:g}" if plan.get("resolution", 1.0) != 1.0 else "",
    ]
    return ", ".join(part for part in parts if part) or "unchanged"


def front_table(front: Mapping[str, Any]) -> Table:
    """Return the table of a front.json object (schema 1): the baseline, then the points from the fastest to the slowest.

    The best point is starred; where no point is within every bound, the nearest are shown, marked with "!". The drop is in points of test
    accuracy if every row has one, else of validation accuracy.
    """
    baseline, metric = front["baseline"], Metric(**front.get("metric", {}))
    nearest = front.get("nearest", ())
    points = sorted([*front["points"], *nearest], key=lambda point: point["latency_ms"])
    split = "test" if all(row["test_accuracy"] is not None for row in (baseline, *points)) else "val"
    table = Table(
        title=f"Pareto front, {metric.name}",
        caption=_caption(front),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    for header in ("trial", f"val {metric.unit}", f"test {metric.unit}", f"{split} drop"):
        table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
    # 80 columns hold it all if the interval may go below its figure and the plan takes some lines
    table.add_column("latency ms\n[95 % CI]", justify="right", min_width=13)
    for header in ("x faster", "MMACs", "KB"):
        table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("plan", min_width=15)
    table.add_row(*_cells(baseline, baseline, metric, split), style="dim", end_section=True)
    for point in points:
        best = point["trial"] == front["best"]
        mark, style = ("*", "bold green") if best else ("!", "yellow") if point in nearest else ("", "")
        table.add_row(*_cells(point, baseline, metric, split, mark), style=style)
    return table


def profile_table(rows: Sequence[ProfileRow], sums: ProfileSums) -> Table:
    """Return the table of a model's layers in the order given, with the sums of MACs and measured time below; it fits 80 columns."""
    shares = [row.share for row in rows if row.share is not None]
    table = Table(title="Where the time goes", show_footer=True, box=SIMPLE, padding=0, show_edge=False, pad_edge=False)
    table.add_column("layer", footer="total", overflow="fold")
    for header, footer in (
        ("MMACs", _mega(sum(row.macs for row in rows))),
        ("ms", _milliseconds(sum(row.latency_ms for row in rows if row.latency_ms is not None))),
        ("share", f"{sum(shares):.1%}"),
        ("GMAC/s", ""),
        ("of peak", ""),
        ("int8 saves", _saves([row.int8_saves_ms for row in rows])),
        ("half saves", _saves([row.half_saves_ms for row in rows])),
        ("removal saves", _saves([row.removal_saves_ms for row in rows])),
    ):
        table.add_column(header.replace(" ", "\n"), footer=footer, justify="right", no_wrap=True)
    for row in rows:
        gmacs = row.macs / row.latency_ms / 1e6 if row.macs and row.latency_ms else None
        cells = (
            row.name,
            _mega(row.macs),
            "-" if row.latency_ms is None else _milliseconds(row.latency_ms),
            "-" if row.share is None else f"{row.share:.1%}",
            "-" if gmacs is None else f"{gmacs:.1f}",
            "-" if gmacs is None else f"{gmacs / sums.peak_gmacs:.0%}",
            *(_saves([saved]) for saved in (row.int8_saves_ms, row.half_saves_ms, row.removal_saves_ms)),
        )
        table.add_row(*map(Text, cells))
    table.caption = Text(
        f"The layers add up to {sums.nodes_ms:.3f} ms, {sums.nodes_ms / sums.whole_ms:.0%} of the whole model's p50 of "
        f"{sums.whole_ms:.3f} ms; with the profiler's own cost they show {sums.raw_nodes_ms:.3f} ms. "
        f"Peak: {sums.peak_gmacs:.1f} GMAC/s, a chain of large fp32 "
        "convolutions. Savings in ms, each measured in a whole model: every layer in int8; every group at half its channels, as far as "
        "the channel step allows; removal is the time of a residual branch's layers."
    )
    table.caption_justify = "left"
    return table


def _cells(row: Mapping[str, Any], baseline: Mapping[str, Any], metric: Metric, split: str, mark: str = "") -> list[Text]:
    low, high = row["latency_ci_ms"]
    test, key = row["test_accuracy"], f"{split}_accuracy"
    digits = decimals_for(baseline["val_accuracy"])
    is_baseline = row["trial"] is None
    cells = (
        "base" if is_baseline else f"{mark}{row['trial']}",
        f"{metric.value(row['val_accuracy']):.{digits}f}",
        "-" if test is None else f"{metric.value(test):.{digits}f}",
        "-" if is_baseline else f"{round(baseline[key] - row[key], digits) + 0.0:.{digits}f}",  # + 0.0 turns -0.0 into 0.0
        f"{_milliseconds(row['latency_ms'])} [{_milliseconds(low)}-{_milliseconds(high)}]",
        f"{1 / row['latency_vs_baseline']:.2f}x",
        _mega(row["macs"]),
        f"{row['size_bytes'] / 1000:,.0f}",
        plan_summary(row["plan"] or {}),
    )
    return [Text(cell) for cell in cells]


def _caption(front: Mapping[str, Any]) -> Text:
    trials = front["trials"]
    counts = (
        f"{trials['completed']} trials completed, {trials['rejected_early']} over the budget, {trials.get('outraced', 0)} out of the race, "
        f"{trials['failed']} failed."
    )
    lines = [f"Budget: {_budget(front['budget'], Metric(**front.get('metric', {})))}.", counts]
    if front.get("stopped_early"):
        lines.append(f"The search {front['stopped_early']['said']}.")
    if front["best"] is not None:
        lines.append(f"* the best point within the budget{_drop_of_best(front)}.")
    if not front["points"]:
        lines.append("No plan met the budget.")
    for lost in front.get("lost", ()):
        lines.append(f"Left out: trial {lost['trial']}, {lost['reason']}")
    for point in front.get("nearest", ()):
        lines.append(f"! trial {point['trial']}: {' and '.join(miss['said'] for miss in point['misses'])}.")
    return Text("\n".join(lines))


def _drop_of_best(front: Mapping[str, Any]) -> str:
    best: Mapping[str, Any] = next((point for point in front["points"] if point["trial"] == front["best"]), {})
    if best.get("val_drop_ci") is None:
        return ""
    metric, like = Metric(**front.get("metric", {})), front["baseline"]["val_accuracy"]
    low, high = (f"{end:.{decimals_for(like)}f}" for end in best["val_drop_ci"])
    return f"; it loses {metric.difference(drop_between(like, best['val_accuracy']), like)} of val, {low} to {high} (95 %)"


def _budget(budget: Mapping[str, Any], metric: Metric) -> str:
    parts = [f"{_milliseconds(budget['limit_ms'])} ms for the upper end of the interval"]
    if budget["max_drop"] is not None:
        parts.append(f"a drop of {budget['max_drop']:g} {'points' if metric.unit == '%' else metric.unit}".rstrip())
    if budget["size_bytes"] is not None:
        parts.append(f"{budget['size_bytes'] / 1000:,.0f} KB")
    return ", ".join(parts)


def _ranks(ranks: Mapping[str, int]) -> str:
    if len(ranks) > MAX_NAMED_RANKS:
        return f"{len(ranks)} layers factorised"
    return ", ".join(f"rank {rank} at {layer}" for layer, rank in ranks.items())


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def _saves(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known):+.3f}" if known else "-"


def _mega(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _milliseconds(value: float) -> str:
    # a layer takes microseconds and a VGG-16 takes 300 ms: three significant digits, never an exponent
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"
