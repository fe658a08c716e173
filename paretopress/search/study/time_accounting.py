"""Seconds of a run by stage."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from paretopress.search.storage.records import Records


def seconds_by_stage(records: Records, elapsed_s: float, *others: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of work by what they went to: each stage, latencies measured again, and "other", what no stage accounts for.

    "recover" is training; "other" is proposing, the journal, reports, what a killed process had under way. With several workers the stages
    overlap, and add up to more than the `elapsed_s` that passed. `others` are stages outside of trials and finalists.
    """
    spent: dict[str, float] = {}
    outcomes = [*(c.outcome for c in records.trial_candidates()), *records.finals().values()]
    for stages_s in (*others, *(outcome.stages_s for outcome in outcomes)):
        for name, duration_s in stages_s.items():
            spent[name] = spent.get(name, 0.0) + duration_s
    again = chain.from_iterable(latencies[1:] for latencies in records.latencies().values())
    spent["latency"] = spent.get("latency", 0.0) + sum(latency.duration_s for latency in again)
    return spent | {"other": max(elapsed_s - sum(spent.values()), 0.0)}
