"""The tables of an explanation: each layer's measured and predicted time, and the causes of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

MAX_NAMED = 4


def explanation_view(explanation: Mapping[str, Any]) -> Group:
    """Return what a person reads of an explanation's JSON object (schema 1): the verdict, the causes, the layers."""
    return Group(Text(verdict(explanation)), *_causes(explanation["causes"], explanation["whole_ms"]), layer_table(explanation))


def verdict(explanation: Mapping[str, Any]) -> str:
    """Return the comparison of the predicted with the measured time in one or two sentences."""
    whole_ms, predicted_ms = explanation["whole_ms"], explanation["predicted_ms"]
    lines = [
        f"{explanation['file']}: measured {whole_ms:.3f} ms (p50), of which its multiply-adds are predicted to need {predicted_ms:.3f} ms."
    ]
    if explanation["measured_ratio"] is not None:
        low, high = explanation["measured_ratio_ci"]
        lines.append(
            f"Against the baseline: measured {explanation['measured_ratio']:.2f} of its time (95 % interval {low:.2f} to {high:.2f}), "
            f"predicted {explanation['predicted_ratio']:.2f}."
        )
    if explanation["causes"]:
        first_ms, gap_ms = explanation["causes"][0]["predicted_saving_ms"], max(whole_ms - predicted_ms, 0.0)
        lines.append(
            f"The first cause below is predicted to account for {first_ms:.3f} of the {gap_ms:.3f} ms in between; causes can overlap."
        )
    else:
        lines.append("No known cause of lost time was found.")
    return "\n".join(lines)


def layer_table(explanation: Mapping[str, Any]) -> Table:
    """Return a row per layer in the order of execution; with a baseline, its figures stand left of the arrow."""
    compared = explanation["measured_ratio"] is not None
    table = Table(title="Layers", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("format")
    table.add_column("runs as", overflow="fold")
    for header in ("MMACs", "ms", "predicted\nms"):
        table.add_column(header, justify="right", no_wrap=True)
    for line in explanation["lines"]:
        macs, ms = f"{line['macs'] / 1e6:.2f}", f"{line['latency_ms']:.3f}"
        if compared:
            macs, ms = f"{_or_dash(line['baseline_macs'], 1e6, 2)} > {macs}", f"{_or_dash(line['baseline_ms'], 1.0, 3)} > {ms}"
        cells = (line["name"], line["format"], "+".join(line["runs_as"]), macs, ms, f"{line['predicted_ms']:.3f}")
        table.add_row(*map(Text, cells))
    table.caption = Text(
        f"The nodes add up to {explanation['nodes_ms']:.3f} ms, {explanation['nodes_ms'] / explanation['whole_ms']:.0%} of the measured "
        f"{explanation['whole_ms']:.3f} ms; with the profiler's own cost they show {explanation['raw_nodes_ms']:.3f} ms."
    )
    table.caption_justify = "left"
    return table


def _or_dash(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _causes(causes: Sequence[Mapping[str, Any]], whole_ms: float) -> list[RenderableType]:
    shown: list[RenderableType] = []
    for number, found in enumerate(causes, 1):
        where = found["where"]
        named = ", ".join(where[:MAX_NAMED]) + (f" and {len(where) - MAX_NAMED} more" if len(where) > MAX_NAMED else "")
        figures = (
            f": {found['latency_ms']:.3f} ms measured ({found['latency_ms'] / whole_ms:.0%} of the model), "
            f"predicted saving {found['predicted_saving_ms']:.3f} ms"
        )
        shown += [
            Text.assemble("\n", (f"{number}. {found['kind']}", "bold"), figures),
            Padding.indent(Text(f"{found['what']}\nat {named}\n{found['change']}"), 3),
        ]
    return [*shown, Text()]
