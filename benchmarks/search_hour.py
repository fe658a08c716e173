"""An hour of search against what a careful engineer makes by hand with the same training per model, on two CIFAR-10 (JPEG) networks.

    python benchmarks/search_hour.py [resnet20 | mobilenet_v2_050] [--run DIR] [--minutes 60]

As cifar10_resnet20.py, with bounds wide enough for a front at 0.5, 1, 2 and 3 points of drop. About 105 minutes a network on two cores,
with nothing else running. Writes results/search_hour.json for the ResNet-20 and results/search_hour_mobilenet_v2_050.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar10_resnet20 import DROPS, compared, fastest
from results_file import Headline, write_result

from paretopress.system.allocator import keep_freed_memory

RUNS = Path(__file__).resolve().parent.parent / "runs"
NAMES = {"resnet20": "search_hour", "mobilenet_v2_050": "search_hour_mobilenet_v2_050"}
CONFIGS = {"resnet20": "search_hour.toml", "mobilenet_v2_050": "cifar10_mobilenet_v2_050.toml"}
# bars for the ResNet-20: times the baseline's speed within 1.0 point; times the speed of the best by hand at its accuracy, and the aim;
# percent of the run outside training, accuracy and latency measurement (the probe measures latency)
SPEEDUP_BAR, HAND_BAR, HAND_AIM, OUTSIDE_BAR = 3.0, 1.15, 1.3, 5.0
MEASURED = ("reconstruct", "recover", "accuracy", "latency", "probe")
Row = dict[str, object]


def at_equal_accuracy(rows: list[Row], theirs: Row) -> Row | None:
    """Return the search's fastest model that is at least as accurate on test as one made by hand."""
    ours = [row for row in rows if row["maker"] == "search" and row["test_accuracy"] >= theirs["test_accuracy"]]
    return max(ours, key=lambda row: row["speedup"], default=None)


def between(rows: list[Row], theirs: Row) -> float | None:
    """Return the search's speed-up at the accuracy of a model made by hand, on the line between the points on either side of it."""
    ours = sorted((row["test_accuracy"], row["speedup"]) for row in rows if row["maker"] == "search")
    at = theirs["test_accuracy"]
    above = at_equal_accuracy(rows, theirs)
    below = max(((speed, accuracy) for accuracy, speed in ours if accuracy < at), key=lambda point: (point[1], point[0]), default=None)
    if above is None:
        return None
    if below is None or below[0] <= above["speedup"]:
        return above["speedup"]
    share = (at - below[1]) / (above["test_accuracy"] - below[1])
    return below[0] + share * (above["speedup"] - below[0])


def headlines(rows: list[Row], best: int | None, *, bars: bool) -> list[Headline]:
    """Return the figures of one network; `bars` is whether it has any."""
    lines = []
    for drop in DROPS:
        ours, theirs = fastest(rows, "search", drop), fastest(rows, "hand", drop)
        value = round(ours["speedup"], 3) if ours else None
        bar = SPEEDUP_BAR if bars and drop == 1.0 else None
        lines.append(Headline(f"search: fastest within {drop} points on test", value, "x fp32", bar, met(value, bar)))
        lines.append(Headline(f"by hand: fastest within {drop} points on test", round(theirs["speedup"], 3) if theirs else None, "x fp32"))
    hand = fastest(rows, "hand", 1.0)
    if hand:
        ours = at_equal_accuracy(rows, hand)
        factor = round(ours["speedup"] / hand["speedup"], 3) if ours else None
        name = f"search against the best by hand within 1.0 point ({hand['name']}), at its accuracy or better"
        bar = HAND_BAR if bars else None
        lines.append(Headline(f"{name} (aim {HAND_AIM})", factor, "x as fast", bar, met(factor, bar)))
        line = between(rows, hand)
        name = "the same, on the line between the search's points on either side of that accuracy"
        lines.append(Headline(name, round(line / hand["speedup"], 3) if line else None, "x as fast"))
        ours = fastest(rows, "search", 1.0)
        lines.append(
            Headline("the same, both within 1.0 point", round(ours["speedup"] / hand["speedup"], 3) if ours else None, "x as fast")
        )
    chosen = next((row for row in rows if row["name"] == f"trial {best}"), None)
    if chosen:
        lines.append(Headline("point chosen on validation data alone", round(chosen["speedup"], 3), "x fp32"))
        lines.append(Headline("its drop on test", round(chosen["test_drop"], 2), "points"))
    return lines


def outside(seconds: dict[str, float], *, bars: bool) -> Headline:
    """Return the share of the run, its set-up included, that went neither to training nor to measuring accuracy and latency."""
    spent = sum(value for stage, value in seconds.items() if stage not in MEASURED)
    percent, bar = round(100.0 * spent / sum(seconds.values()), 2), OUTSIDE_BAR if bars else None
    return Headline("time outside training, accuracy and latency", percent, "% of the run", bar, percent < bar if bar else None)


def met(value: float | None, bar: float | None) -> bool | None:
    """Return whether a figure reaches its bar, None without a bar."""
    return None if bar is None else value is not None and value >= bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", choices=sorted(NAMES), default="resnet20")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    keep_freed_memory()
    name = NAMES[args.network]
    rows, front, shared = compared(RUNS / CONFIGS[args.network], args.run or RUNS / name, args.minutes)
    bars = args.network == "resnet20"
    write_result(name, [*headlines(rows, front["best"], bars=bars), outside(shared["seconds"], bars=bars)], rows, **shared)


if __name__ == "__main__":
    main()
