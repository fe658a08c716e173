"""The probe's table as text."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from paretopress.report.probe_table import probe_table
from paretopress.targets.probe.probe_report import ProbeReport


def rendered(report: ProbeReport, width: int = 160) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(probe_table(report.to_json()))
    return " ".join(file.getvalue().split())


def test_probe_table_shows_ratio_interval_and_verdict_of_a_finding(probe_report: ProbeReport) -> None:
    text = rendered(probe_report)
    assert "int8/depthwise 1.80 1.78-1.82 1.80x slower than float: left in fp32" in text
    assert "int8/dense 0.33 0.33-0.34 3.00x faster than float: offered" in text


def test_probe_table_says_what_follows_when_a_report_is_shown(probe_report: ProbeReport) -> None:
    text = rendered(probe_report)
    assert "Testor 3000, ONNX Runtime 1.31.0, 1 thread(s); probed 2026-11-22T07:00:00+00:00 in 30 s." in text
    assert "Channel step: 16." in text
    assert "Left in fp32: depthwise (1.60x slower than float); dense convolutions pay in int8 from 16 channels on." in text
    assert "7-bit weights (reduce_range): needed, 8 bits saturate." in text
    assert "Peak: 70 GMAC/s in fp32, 210 GMAC/s in int8." in text
    assert "Noise floor: 1.0% of a ratio; timer: 40 ns." in text


def test_probe_table_says_what_is_not_known_when_a_figure_is_missing(probe_report: ProbeReport) -> None:
    text = rendered(
        replace(probe_report, failed={"float16 conv": "no [kernel]"}, int8_peak_gmac_per_s=None, timer_ns=None, reduce_range=False)
    )
    assert "float16 conv - - does not run: no [kernel]" in text
    assert "Peak: 70 GMAC/s in fp32. " in text
    assert "timer: unknown." in text
    assert "reduce_range): not needed." in text
