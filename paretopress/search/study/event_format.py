"""Format outcomes for people (one line) and for the event log (name and fields)."""

from __future__ import annotations

from typing import Any

from paretopress.core.outcome import Outcome
from paretopress.search.candidates import Bounds

# names of events that the driver reacts to
STOPPED_EARLY, TRIAL = "stopped early", "trial"


def describe(outcome: Outcome, bounds: Bounds) -> str:
    """Return "98.1 % at 0.210 ms (2.4x)"."""
    latency = outcome.latency.latency_ms
    return f"{bounds.metric.shown(outcome.val_accuracy)} at {latency:.3f} ms ({bounds.baseline_ms / latency:.2f}x)"


def event_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of an outcome in the event log."""
    return {
        "rung": int(outcome.rung),
        "val_accuracy": outcome.val_accuracy,
        "macs": outcome.macs,
        "latency_ms": outcome.latency.latency_ms,
        "rejected": outcome.rejected,
        "stages_s": dict(outcome.stages_s),
    }
