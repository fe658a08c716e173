"""Bounds what a long run keeps on disk: the files of dominated trials go, their records stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from paretopress.run_folder import RunFolder
from paretopress.search.candidates import Bounds, front
from paretopress.search.records import Records


def drop_dominated(folder: RunFolder, records: Records, bounds: Bounds, most_bytes: int) -> list[int]:
    """Remove candidates' folders, oldest first, until all take at most `most_bytes`; return the trials whose files went.

    What is on the front, by the figures of the trial or of the full recovery, is kept whatever it takes, and so are a finalist's files and
    those of a candidate whose latency interval holds the budget: it is measured again, and may join the front then.
    A finalist whose trial has lost its files starts from the original weights.
    """
    sizes = {int(place.name): folder_bytes(place) for place in sorted((folder.root / "trials").glob("[0-9]*"))}
    left = sum(sizes.values()) + sum(folder_bytes(place) for place in (folder.root / "finalists").glob("[0-9]*"))
    if left <= most_bytes:
        return []
    trials, finals = records.trial_candidates(), records.finals()
    fronts = [front(trials, bounds), front(records.candidates(), bounds), front([c for c in trials if c.number not in finals], bounds)]
    astride = [c for c in (*trials, *records.candidates()) if bounds.straddles(c.outcome)]
    known, kept = {c.number for c in trials}, {c.number for members in (*fronts, astride) for c in members}
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
