"""Retention: bound the disk space of a run by removing files of dominated trials; their records stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from paretopress.search.candidates import Bounds, front, promising_front
from paretopress.search.storage.records import Records
from paretopress.search.study.nearest import nearest_points
from paretopress.system.run_folder import RunFolder


def drop_dominated(folder: RunFolder, records: Records, bounds: Bounds, most_bytes: int) -> list[int]:
    """Remove candidates' folders, oldest first, until all take at most `most_bytes`; return the trials whose files went.

    What is on a front, by the figures of the trial or of the full recovery, is kept whatever it takes; so are what may still be measured
    again or shown as nearest to the budget, and what belongs to a finalist.
    A finalist whose trial has lost its files starts from the original weights.
    """
    sizes = {int(place.name): folder_bytes(place) for place in sorted((folder.root / "trials").glob("[0-9]*"))}
    left = sum(sizes.values()) + sum(folder_bytes(place) for place in (folder.root / "finalists").glob("[0-9]*"))
    if left <= most_bytes:
        return []
    trials, finals = records.trial_candidates(), records.finals()
    recovered = records.candidates()
    kept_for = [
        promising_front(trials, bounds),
        promising_front([c for c in trials if c.number not in finals], bounds),  # the next finalist comes from there
        front(recovered, bounds),
        nearest_points(recovered, bounds),
        [c for c in [*trials, *recovered] if bounds.undecided(c.outcome)],  # may be measured again
    ]
    known, kept = {c.number for c in trials}, {c.number for members in kept_for for c in members}
    dropped = []
    for number, size in sizes.items():
        if left <= most_bytes:
            break
        if number in known and number not in kept:
            shutil.rmtree(folder.candidate(number, final=False), ignore_errors=True)
            left -= size
            dropped.append(number)
    return dropped


def folder_bytes(place: Path) -> int:
    """Return what the files below a folder take."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
