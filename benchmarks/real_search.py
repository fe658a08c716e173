"""What benchmarks that make a real search share: making or resuming it, what its finalists came from, and measuring files once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paretopress.api import resume_run, start_run
from paretopress.config import RunConfig
from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.report.live import LiveView
from paretopress.system.event_log import read_events
from paretopress.system.run_folder import RunFolder
from paretopress.targets.local import LocalTarget

ROUNDS = 3


def search_to_its_end(config: RunConfig, run: Path) -> None:
    """Make the search in this folder; go on with it where it was interrupted; do nothing where it was finished before."""
    folder = RunFolder(run)
    if folder.config.is_file() and folder.read(folder.config) != config.to_json():
        raise SystemExit(f"{run} must hold the search that is asked for, but holds another: name another folder")
    if folder.front.is_file():
        return
    with LiveView() as view:
        if folder.config.is_file():
            resume_run(run, view)
        else:
            start_run(config, run, view)


def finalists(folder: RunFolder, baseline_accuracy: float) -> list[dict[str, object]]:
    """Return a row per finalist, in their order: what it had lost after its trial and after its full recovery, of validation accuracy."""
    events = read_events(folder.log)
    after_trial = {event["trial"]: event for event in events if event["event"] == "trial"}
    return [
        {
            "trial": event["trial"],
            "rung": after_trial[event["trial"]]["rung"],
            "share": round(event["share"], 2),
            "drop_after_trial": round(baseline_accuracy - after_trial[event["trial"]]["val_accuracy"], 2),
            "drop": round(baseline_accuracy - event["val_accuracy"], 2),
        }
        for event in events
        if event["event"] == "finalist" and "val_accuracy" in event
    ]


def sessions_by_file(paths: Sequence[Path], baseline: Path, feed: Feed, baseline_ms: float) -> list[list[Latency]]:
    """Return the latencies of `ROUNDS` sessions for each file, the files in a new random order each round."""
    rng, target = np.random.default_rng(0), LocalTarget()
    sessions: list[list[Latency]] = [[] for _ in paths]
    for _ in range(ROUNDS):
        for index in rng.permutation(len(paths)):
            sessions[index].append(target.measure(paths[index], baseline, baseline_ms=baseline_ms, limit_ms=None, feed=feed, rng=rng))
    return sessions
