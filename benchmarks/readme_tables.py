"""Write the tables of README.md and of the pages in docs/ from benchmarks/results/*.json, between their markers.

    python benchmarks/readme_tables.py [--check]

With --check nothing is written, and the exit code is 1 if a table is not what the results say.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
ACCURACY_FLOOR_DROP = 8.0


def headlines(value: Mapping[str, Any]) -> list[str]:
    """Return a table of a result's headlines and the line that says where they come from."""
    lines = ["| figure | value | bar |", "|---|---|---|"]
    for item in value["headlines"]:
        verdict = {True: "met", False: "**missed**", None: "not decided yet"}[item["met"]]
        bar = "" if item["bar"] is None else f"{item['bar']:g}, {verdict}"
        shown = "none" if item["value"] is None else f"{item['value']:g} {item['unit']}"
        lines.append(f"| {item['name']} | {shown} | {bar} |")
    environment = value["environment"]
    lines += ["", f"`{value['command']}`, {value['date']}, {environment['cpu']}, {environment['threads']} thread(s)."]
    return lines


def header(*columns: str) -> list[str]:
    """Return an empty line and the head of a table."""
    return ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def cifar10(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines and the models, fastest first; models that lost more than 8 points are left to the result file."""
    lines = [*headlines(value), "", "| made by | model | test % | drop | x fp32 | MMACs | KB |", "|---|---|---|---|---|---|---|"]
    for row in value["rows"]:
        if row["test_drop"] <= ACCURACY_FLOOR_DROP:
            lines.append(
                f"| {row['maker']} | {row['name']} | {row['test_accuracy']:.2f} | {row['test_drop']:.2f} | {row['speedup']:.2f} "
                f"| {row['macs'] / 1e6:.1f} | {row['size_bytes'] / 1e3:.0f} |"
            )
    return lines


def coverage(value: Mapping[str, Any]) -> list[str]:
    """Return a row per family, and what is left alone in each."""
    columns = ("pruned", "quantised", "factorised", "all three")
    lines = [
        *headlines(value),
        "",
        "| family | layers | channel groups | % of MACs in them | branches | one layer pruned | quantised | factorised |",
    ]
    lines[-1] += " all three | parity | best of a short search | seconds |"
    lines.append("|---" * 12 + "|")
    for row in value["rows"]:
        each = row.get("one_of_each", {})
        cells = [row.get(name, "") for name in ("layers", "channel_groups", "prunable_percent", "branches")]
        cells += [f"{each[word]:.2f}x" if word in each else "" for word in columns]
        cells.append(f"{each['parity']:.0e}" if "parity" in each else "")
        cells.append(f"{1 / row['fastest_vs_baseline']:.2f}x" if "fastest_vs_baseline" in row else f"**open**: {row['error']}")
        lines.append(f"| {row['model']} | {' | '.join(map(str, cells))} | {row['duration_s']:.0f} |")
    lines += ["", "Left alone, by reason:", ""]
    for row in value["rows"]:
        reasons = Counter(item.split(": ", 1)[1] for item in row.get("frozen", ()))
        if reasons:
            lines.append(f"- {row['model']}: " + "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common()))
    return lines


def by_model(value: Mapping[str, Any], columns: str, cells: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """Return the headlines and a table for each model, a row of cells for each of its rows."""
    lines = headlines(value)
    for model in dict.fromkeys(row["model"] for row in value["rows"]):
        lines += ["", f"{model}:", "", f"| {columns} |", "|---" * len(columns.split("|")) + "|"]
        lines += [f"| {cells(row)} |" for row in value["rows"] if row["model"] == model]
    return lines


def techniques(value: Mapping[str, Any]) -> list[str]:
    """Return a table for each model, a row per technique."""

    def cells(row: Mapping[str, Any]) -> str:
        start = f"{row['technique']} | {row['variant']}"
        if "error" in row:
            return f"{start} | the runtime refuses it: {row['error']} | | | |"
        sizes = f"{row['size_bytes'] / 1e3:.0f} | {row['zipped_bytes'] / 1e3:.0f}"
        return f"{start} | {row['val_accuracy']:.2f} | {row['drop']:.2f} | {sizes} | {row['speedup']:.2f}"

    return by_model(value, "technique | variant | validation % | drop | KB | KB zipped | x fp32", cells)


def real_models(value: Mapping[str, Any]) -> list[str]:
    """Return a table for each model, the fastest first."""

    def cells(row: Mapping[str, Any]) -> str:
        same = f"{row['agreement_percent']:.1f}" if "agreement_percent" in row else ""
        figures = f"{row['test_accuracy']:.2f} | {row['test_drop']:.2f} | {same} | {row['size_bytes'] / 1e3:.0f} | {row['speedup']:.2f}"
        return f"{row['maker']} | {row['name']} | {figures}"

    return by_model(value, "made by | model | test % | drop | as the original % | KB | x fp32", cells)


def scale(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines, and how the figures grow with the study."""
    figures = {"ask_p95_s": "an ask, s", "tell_p95_s": "a tell, s", "between_p95_s": "from one evaluation to the next, s"}
    lines = headlines(value)
    for row in value["rows"]:
        sizes = row["by_size"]
        lines += ["", f"{row['storage']}, {row['workers']} workers, {row['faster']:g} times faster than real:", ""]
        lines += [f"| 95th percentile, at up to so many trials | {' | '.join(sizes)} |", "|---" * (1 + len(sizes)) + "|"]
        lines += [f"| {text} | {' | '.join(f'{size[name]:.3f}' for size in sizes.values())} |" for name, text in figures.items()]
        memory = (f"{size['process_mb']:.0f}" for size in sizes.values())
        lines.append(f"| memory of a process, MB | {' | '.join(memory)} |")
    return lines


def stopping(value: Mapping[str, Any]) -> list[str]:
    """Return a row per run and limit."""
    columns = ("run", "trials", "ends when the rest would add under, %", "ended at trial", "predicted, %", "given up, %")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in value["rows"]:
        limit = "any" if row["least_gain"] is None else f"{row['least_gain']:g}"
        ended = "its end | " if row["ended_at"] is None else f"{row['ended_at']} | {row['predicted']:.2f}"
        lines.append(f"| {row['run']} | {row['trials']} | {limit} | {ended} | {row['given_up']:.2f} |")
    return lines + headlines(value)[-2:]


def wild(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines, a row for each source of models, and the models that are not taken in or of which little can be changed."""
    columns = (
        "from",
        "models",
        "taken in",
        "half of the MACs changeable",
        "pruned to half, files agree",
        "torch-pruning alone",
        "torch.export",
    )
    lines = [*headlines(value), *header(*columns)]
    rows = value["rows"]
    for source in dict.fromkeys(row["model"].split(":")[0] for row in rows):
        mine = [row for row in rows if row["model"].startswith(f"{source}:")]
        found = [row["ours"] for row in mine if row["ours"].get("taken_in")]
        counts = [
            len(mine),
            len(found),
            sum(row.get("changeable", 0.0) >= 0.5 for row in found),
            sum(row.get("half_macs", 1.0) < 1.0 and (row.get("half_difference") or 0.0) <= 1e-3 for row in found),
            sum(bool(row["torch-pruning"].get("same_shapes")) and row["torch-pruning"].get("macs", 1.0) < 1.0 for row in mine),
            sum(bool(row["torch.export"].get("any_batch")) for row in mine),
        ]
        lines.append(f"| {source} | {' | '.join(map(str, counts))} |")
    lines += ["", "Not taken in, or with an error on the way, or with less than half of their multiply-adds changeable:", ""]
    for row in rows:
        found, share = row["ours"], row["ours"].get("changeable")
        if "error" in found or share is None or share < 0.5:
            left = "" if share is None else f"{100.0 * share:.0f} % changeable"
            why = found.get("error") or (found.get("frozen") or [""])[0]
            lines.append(f"- {row['model']}: {'; '.join(filter(None, (left, why)))}")
    memory_gb = value.get("memory_gb", 8.0)
    needs = [
        f"{row['model']} {row['ours']['duration_s']:.0f} s, {row['ours']['peak_gb']:.1f} GB"
        for row in rows
        if row["ours"].get("duration_s", 0.0) > value["seconds"] or row["ours"].get("peak_gb", 0.0) > memory_gb
    ]
    told = f"Needed more than {value['seconds']:.0f} s or {memory_gb:g} GB: {'; '.join(needs)}."
    return [*lines, "", told] if needs else lines


Table = Callable[[Mapping[str, Any]], list[str]]


def busy(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines, and a row for each search."""
    lines = [*headlines(value), *header("minutes given", "busy processes", "seconds", "overshoot %", "trials a minute", "points")]
    for row in value["rows"]:
        pace = f"{row['overshoot_percent']:.2f} | {row['trials_per_minute']:.1f}"
        lines.append(f"| {row['minutes']:g} | {row['busy']} | {row['wall_s']:.1f} | {pace} | {row['points']} |")
    return lines


def training_step(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines, and a row for each network."""
    columns = ("network", "pixels", "batch", "bfloat16, ms", "slow layers in float32, ms", "float32, ms", "gain")
    lines = [*headlines(value), *header(*columns)]
    for row in value["rows"]:
        taken = " | ".join(f"{1e3 * row[key]:.0f}" for key in ("bf16_s", "mixed_s", "fp32_s"))
        lines.append(f"| {row['network']} | {row['pixels']} | {row['batch']} | {taken} | {row['bf16_s'] / row['mixed_s']:.2f}x |")
    return lines


def fronts(value: Mapping[str, Any]) -> list[str]:
    """Return a row for each search: what it asked for, and what it would export."""
    columns = (
        "search",
        "metric",
        "on test before",
        "minutes",
        "asked",
        "points within",
        "its choice",
        "lost on val",
        "lost on test",
        "fastest",
    )
    lines = header(*columns)
    for row in value["rows"]:
        chosen, fastest = row["chosen"] or row["nearest"], row["fastest"] or row["nearest"]
        told = f"{chosen['speedup']:.2f}x | {chosen['val_drop']:.2f} | {chosen['test_drop']:.2f} | " if chosen else "none | | | "
        asked = f"{row['speedup_asked']:g}x, {row['max_drop']:g} lost"
        before = f"{row['baseline_test']:.2f} | {row['minutes']:.0f} | {asked} | {row['points_within']}"
        lines.append(f"| {row['search']} | {row['metric']} | {before} | {told}{fastest['speedup'] if fastest else 0.0:.2f}x |")
    return [*lines, "", f"`{value['command']}`, {value['date']}."]


def recovery_speed(value: Mapping[str, Any]) -> list[str]:
    """Return the headlines, and a row for each round."""
    lines = [
        *headlines(value),
        *header("photos", "round", "plain loop, images/s", "recovery, images/s", "ratio", "plain, MB", "recovery, MB"),
    ]
    for row in value["rows"]:
        pace = f"{row['plain_images_s']:.1f} | {row['recovery_images_s']:.1f} | {row['ratio']:.2f}"
        lines.append(f"| {row['photos']} | {row['seed']} | {pace} | {row['plain_mb']:.0f} | {row['recovery_mb']:.0f} |")
    return lines


PAGES: dict[str, dict[str, Table]] = {
    "README.md": {
        "demo": headlines,
        "search_hour": cifar10,
        "trial_cost": headlines,
        "wild": headlines,
        "coverage": headlines,
        "real_models": headlines,
        "knobs": headlines,
    },
    "docs/coverage.md": {"wild": wild, "wild_drawn": wild, "coverage": coverage, "real_models": real_models, "fronts": fronts},
    "docs/techniques.md": {"techniques": techniques},
    "docs/figures.md": {
        "busy": busy,
        "demo_busy": headlines,
        "reachable": headlines,
        "search_hour_mobilenet_v2_050": cifar10,
        "cifar10_resnet20": cifar10,
        "samplers": headlines,
        "throughput": headlines,
        "stopping": stopping,
        "training_step": training_step,
        "recovery_speed": recovery_speed,
        "quantiser": headlines,
        "recovery": headlines,
        "scale": scale,
        "faults": headlines,
        "night": headlines,
        "fuzz": headlines,
        "workers": headlines,
        "latency_aa": headlines,
        "latency_order": headlines,
        "latency_coverage": headlines,
        "latency_ssh": headlines,
        "latency_explain": headlines,
        "structure": headlines,
        "startup": headlines,
    },
}


def filled(page: str, text: str) -> str:
    """Return a page with every table made anew from its result file."""
    for name, table in PAGES[page].items():
        path = RESULTS / f"{name}.json"
        body = "\n".join(table(json.loads(path.read_text()))) if path.is_file() else "Not measured yet."
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, body=body: f"{found[1]}{body}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"{page} must have the markers of {name} once, but has them {count} times")
    return text


def main() -> None:
    stale = []
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = filled(page, before)
        if before != after:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(stale)} must say what the results say: run `make docs`")


if __name__ == "__main__":
    main()
