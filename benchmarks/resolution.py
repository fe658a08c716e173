"""What the resolution of the images is worth as a knob: the same search with it and without, for models that take any size.

    python benchmarks/resolution.py [--minutes 10] [--only NAME] [--runs DIR]

For each search of runs/ that is named below, one without the knob and one in which each plan also chooses 1, 0.875 or 0.75 of the images'
height and width, one after the other, without anything from earlier searches. The budget is the search's own: what counts is the speed of
the fastest point within its bound on the drop, and the hypervolume. One pair a model, so there is no interval. Nothing else may run
meanwhile; each row is written as its search ends, and a search that is in --runs already is not repeated.
"""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from real_search import search_to_its_end
from results_file import Headline, recorded_rows, write_result

from paretopress.config import parse_config, read_config
from paretopress.errors import SearchFailedError
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
NAME, SEARCHES, OFFERED = "resolution", ("canvas_labels", "imagenet300_unlabelled"), (1.0, 0.875, 0.75)


def searched(search: str, minutes: float, offered: tuple[float, ...], runs: Path) -> dict[str, Any]:
    """Return the row of one search."""
    path = ROOT / "runs" / f"{search}.toml"
    asked = read_config(path).to_json()
    asked["time"] |= {"minutes": minutes}
    asked["space"] |= {"resolution": list(offered)}
    asked["disk"] |= {"cache_mb": 0}
    run = runs / f"{search}-{'with' if len(offered) > 1 else 'without'}"
    with suppress(SearchFailedError):  # where nothing meets the budget there is a front all the same: an empty one
        search_to_its_end(parse_config(asked, str(path)), run)
    front = json.loads(RunFolder(run).front.read_text())
    points = [
        {
            "trial": point["trial"],
            "speedup": round(1.0 / point["latency_vs_baseline"], 3),
            "val_drop": round(front["baseline"]["val_accuracy"] - point["val_accuracy"], 3),
            "test_drop": round(front["baseline"]["test_accuracy"] - point["test_accuracy"], 3),
            "resolution": point["plan"].get("resolution", 1.0),
        }
        for point in front["points"]
    ]
    row = {"search": search, "minutes": minutes, "resolution": list(offered), "points": points, "trials": front["trials"]}
    return row | {"hypervolume": front["hypervolume"], "fastest": max((point["speedup"] for point in points), default=None)}


def headlines(rows: list[dict[str, Any]]) -> list[Headline]:
    """Return the fastest point within the bounds of each search, and what the knob adds."""
    lines = []
    for search in SEARCHES:
        pair = {len(row["resolution"]) > 1: row for row in rows if row["search"] == search}
        for free, row in sorted(pair.items()):
            name = f"{search}: fastest within the bounds, {'resolution searched' if free else 'full resolution'}"
            lines.append(Headline(name, row["fastest"], "x"))
        if len(pair) == 2:
            ahead = pair[True]["hypervolume"] - pair[False]["hypervolume"]
            lines.append(Headline(f"{search}: hypervolume that the resolution adds, one pair", round(ahead, 4), ""))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=SEARCHES)
    parser.add_argument("--runs", type=Path, default=Path("runs/resolution"), help="where the searches lie")
    args = parser.parse_args()
    keep_freed_memory()
    for search in SEARCHES if args.only is None else (args.only,):
        for offered in (OFFERED[:1], OFFERED):
            made = searched(search, args.minutes, offered, args.runs)
            others = [row for row in recorded_rows(NAME) if (row["search"], row["resolution"]) != (search, list(offered))]
            rows = [*others, made]
            write_result(NAME, headlines(rows), rows)


if __name__ == "__main__":
    main()
