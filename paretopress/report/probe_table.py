"""The table of `paretopress probe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def probe_table(report: Mapping[str, Any]) -> Table:
    """Return the table of a probe report's JSON object (schema 1): a row per finding, and below what follows for a search."""
    table = Table(
        title=f"Probe of {report['fingerprint']['target']}",
        caption=Text("\n".join(_facts(report))),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("finding")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("verdict")
    for finding in report["findings"]:
        low, high = finding["ratio_ci"]
        cells = (finding["name"], f"{finding['ratio']:.2f}", f"{low:.2f}-{high:.2f}", finding["verdict"])
        table.add_row(*map(Text, cells))
    for name, reason in report["failed"].items():
        table.add_row(Text(name), "-", "-", Text(f"does not run: {reason}"))
    return table


def _facts(report: Mapping[str, Any]) -> list[str]:
    fingerprint, capabilities = report["fingerprint"], report["capabilities"]
    int8_peak, timer_ns = report["int8_peak_gmac_per_s"], report["timer_ns"]
    slow = [f"{family} ({words})" for family, words in capabilities["slow_int8"].items()]
    return [
        f"{fingerprint['cpu']}, ONNX Runtime {fingerprint['onnxruntime']}, {fingerprint['threads']} thread(s); "
        f"probed {report['date']} in {report['duration_s']:.0f} s.",
        f"Channel step: {report['channel_step']}.",
        f"Left in fp32: {', '.join(slow) or 'nothing'}; dense convolutions pay in int8 from "
        f"{capabilities['min_int8_channels']} channels on.",
        f"7-bit weights (reduce_range): {'needed, 8 bits saturate' if report['reduce_range'] else 'not needed'}.",
        f"Peak: {report['fp32_peak_gmac_per_s']:.0f} GMAC/s in fp32" + ("." if int8_peak is None else f", {int8_peak:.0f} GMAC/s in int8."),
        f"Noise floor: {report['noise_floor']:.1%} of a ratio; timer: {'unknown' if timer_ns is None else f'{timer_ns} ns'}.",
    ]
