"""`paretopress status`: where a run stands, read from its journal without touching the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paretopress.commands.terminal import JsonOption, RunArgument, out, print_json, verb_app
from paretopress.run.lookup import stored_config, study_place
from paretopress.run.state import RunState
from paretopress.search.candidates import Bounds, Candidate, best, front
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.search.study.event_format import describe
from paretopress.search.study.nearest import miss_sentence, nearest_points
from paretopress.search.study.time_budget import TimeBudget
from paretopress.system.elapsed_time import recorded_elapsed_s
from paretopress.system.event_log import read_events
from paretopress.system.run_folder import RunFolder, open_run_folder

app = verb_app()


def run_status(run: Path) -> dict[str, Any]:
    """Return the state of a run: phase, counts, elapsed and remaining seconds, best point and its file, the front, reasons of failures.

    Raises: RunFolderError: the path is not a run.
    """
    folder = open_run_folder(run)
    config = stored_config(folder)
    place = study_place(folder, config)
    if not folder.state.is_file() or (isinstance(place, Path) and not place.is_file()):
        return {"run": str(run), "phase": "preparing"}
    state = RunState.from_json(folder.read(folder.state))
    bounds, records = state.bounds(config), Records(open_study(place))
    times = TimeBudget(records, config.limits(), state.setup_s)
    times.resume_at(recorded_elapsed_s(folder.worked))
    events = read_events(folder.log)
    phase = _phase(folder, events, times)
    return {
        "run": str(run),
        "phase": phase,
        **asdict(records.counts()),
        "finalists": len(records.finals()),
        "elapsed_s": round(times.elapsed_s, 1),
        "given_s": times.limits.seconds,
        "remaining_s": 0.0 if phase == "finished" else _remaining_s(records, times),
        "budget_ms": round(bounds.limit_ms, 4),
        "metric": bounds.metric.name,
        **_points(records.candidates(), bounds, folder, state),
        "failures": records.failure_reasons(),
        "last_event": next(iter(events[-1:]), None),
    }


def _phase(folder: RunFolder, events: Sequence[Mapping[str, Any]], times: TimeBudget) -> str:
    ends = [event["event"] for event in events if event["event"] in ("started", "finished")]
    if folder.front.is_file() and ends[-1:] != ["started"]:  # one that was given more time has its earlier front
        return "finished"
    return "finalists" if times.in_finalists else "searching"


def _points(candidates: Sequence[Candidate], bounds: Bounds, folder: RunFolder, state: RunState) -> dict[str, Any]:
    points, nearest = front(candidates, bounds), nearest_points(candidates, bounds)
    chosen = best(points, bounds, state.data_sizes["val"])
    return {
        "best": describe(chosen.outcome, bounds) if chosen else "none yet within every bound",
        "best_file": str(folder.model_file(chosen.outcome.onnx_path)) if chosen else None,
        "front": [_point(candidate, bounds) for candidate in points],
        "nearest": miss_sentence(nearest[0], bounds) if nearest else None,
    }


def _point(candidate: Candidate, bounds: Bounds) -> dict[str, Any]:
    outcome = candidate.outcome
    return {
        "trial": candidate.number,
        "rung": int(outcome.rung),
        "val_accuracy": outcome.val_accuracy,
        "shown": bounds.metric.shown(outcome.val_accuracy),
        "latency_ms": outcome.latency.latency_ms,
        "macs": outcome.macs,
    }


def _remaining_s(records: Records, times: TimeBudget) -> float | None:
    """Return the seconds until the run ends, by its time or at the pace of its trials so far; None where neither is known."""
    if times.limits.seconds is not None:
        return round(max(times.end_s - times.elapsed_s, 0.0), 1)
    known = [duration for duration in records.durations() if duration is not None]
    if not known or times.in_finalists or times.limits.trials is None:
        return None
    return round(times.phase_s / len(known) * max(times.limits.trials - len(known), 0), 1)


@app.command(epilog="Example: paretopress status runs/night --json")
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show where a run stands; reads only, so it never disturbs the run."""
    value = run_status(run)
    if as_json:
        print_json(value)
        return
    for name, shown in value.items():
        if name not in ("front", "last_event"):
            text = shown if not isinstance(shown, list) else "; ".join(map(str, shown)) or "none"
            out.print(f"{name.replace('_', ' ')}: {text}", markup=False)
    for point in value.get("front", []):
        out.print(f"front: trial {point['trial']}, {point['shown']} at {point['latency_ms']:.3f} ms", markup=False)
