"""An explanation as text, from a JSON object worked out by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from paretopress.report.explanation import explanation_view, verdict


@pytest.fixture
def explanation() -> dict[str, Any]:
    """Return a file that takes 0.4 of its baseline where 0.25 was predicted; six layers share one cause."""
    line = {"format": "int8", "runs_as": ["FusedConv"], "macs": 2_000_000, "latency_ms": 0.4, "predicted_ms": 0.1}
    return {
        "schema": 1,
        "file": "model.onnx",
        "whole_ms": 0.5,
        "nodes_ms": 0.48,
        "raw_nodes_ms": 0.6,
        "predicted_ms": 0.125,
        "measured_ratio": 0.4,
        "measured_ratio_ci": (0.39, 0.42),
        "predicted_ratio": 0.25,
        "lines": [
            line | {"name": "stem", "baseline_macs": 4_000_000, "baseline_ms": 0.8},
            line | {"name": "[new]", "baseline_macs": None, "baseline_ms": None},
        ],
        "causes": [
            {
                "kind": "odd channels",
                "where": [f"conv{i}" for i in range(6)],
                "latency_ms": 0.25,
                "predicted_saving_ms": 0.15,
                "what": "Widths are odd.",
                "change": "Keep 64 channels.",
            }
        ],
    }


def rendered(value: dict[str, Any], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(explanation_view(value))
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_explanation_view_says_what_where_and_how_much(explanation: dict[str, Any]) -> None:
    text = rendered(explanation)
    assert "measured 0.40 of its time (95 % interval 0.39 to 0.42), predicted 0.25." in text
    assert "The first cause below is predicted to account for 0.150 of the 0.375 ms in between; causes can overlap." in text
    assert "1. odd channels: 0.250 ms measured (50% of the model), predicted saving 0.150 ms" in text
    assert "Widths are odd. at conv0, conv1, conv2, conv3 and 2 more Keep 64 channels." in text
    assert "stem int8 FusedConv 4.00 > 2.00 0.800 > 0.400 0.100" in text
    assert "[new] int8 FusedConv - > 2.00 - > 0.400 0.100" in text
    assert "The nodes add up to 0.480 ms, 96% of the measured 0.500 ms" in text


def test_explanation_view_compares_with_nothing_when_there_is_no_baseline(explanation: dict[str, Any]) -> None:
    text = rendered(explanation | {"measured_ratio": None, "measured_ratio_ci": None, "predicted_ratio": None})
    assert "baseline" not in text
    assert "stem int8 FusedConv 2.00 0.400 0.100" in text


def test_verdict_says_so_when_no_cause_was_found(explanation: dict[str, Any]) -> None:
    assert verdict(explanation | {"causes": []}).endswith("No known cause of lost time was found.")
