"""The tables as text, with figures worked out by hand."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from paretopress.core.plan import Plan
from paretopress.report.tables import ProfileRow, ProfileSums, front_table, plan_summary, profile_table


def rendered(table: Table, width: int = 160) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def line_with(lines: list[str], word: str) -> list[str]:
    (line,) = [line.split() for line in lines if word in line.split()]
    return line


@pytest.mark.parametrize(
    ("plan", "summary"),
    [
        (Plan(), "unchanged"),
        (Plan(kept={"a": 0}), "1 branch removed"),
        (Plan(kept={"a": 0, "b": 0, "c": 16}, bits={"a": 8, "b": 8, "c": 4}), "2 branches removed, 1 group pruned, 2 int8, 1 int4"),
        (Plan(kept={"a": 8, "b": 16}, rank={"fc": 8}), "2 groups pruned, rank 8 at fc"),
        (Plan(rank={"a": 1, "b": 2, "c": 3}), "3 layers factorised"),
    ],
)
def test_plan_summary_counts_what_is_done_when_a_plan_acts(plan: Plan, summary: str) -> None:
    assert plan_summary(plan.to_json()) == summary


def test_plan_summary_leaves_float_out_when_the_bits_name_it() -> None:
    assert plan_summary({"bits": {"a": 32}}) == "unchanged"


def test_front_table_starts_with_the_baseline_and_sorts_by_latency(front: dict[str, Any]) -> None:
    lines = rendered(front_table(front))
    first_words = [line.split()[0] for line in lines if line.strip()]
    assert [word for word in first_words if word in {"base", "31", "12", "*7", "7"}] == ["base", "31", "12", "*7"]


def test_front_table_shows_the_figures_of_a_point_when_tested(front: dict[str, Any]) -> None:
    lines = rendered(front_table(front))
    # drop 97.50 - 96.25; 0.8 / 0.25 = 3.2x; 0.25 * 10 MMACs; 250 KB
    assert " ".join(line_with(lines, "12")) == "12 97.00 96.25 1.25 0.250 [0.237-0.263] 3.20x 2.50 250 1 branch removed, 1 group pruned"
    assert line_with(lines, "*7")[3] == "-0.10"  # better than the baseline on test data
    assert line_with(lines, "base")[3] == "-"
    assert "Budget: 0.421 ms for the upper end of the interval." in [line.strip() for line in lines]
    assert "20 trials completed, 11 over the budget, 4 out of the race, 1 failed." in [line.strip() for line in lines]


def test_front_table_shows_enough_decimals_when_the_metric_is_a_share(front: dict[str, Any]) -> None:
    for row in (front["baseline"], *front["points"]):
        row |= {key: row[key] / 100.0 for key in ("val_accuracy", "test_accuracy")}
    front |= {"metric": {"name": "dice", "unit": "", "higher_is_better": True}, "budget": front["budget"] | {"max_drop": 0.02}}
    lines = rendered(front_table(front))
    assert line_with(lines, "12")[1:4] == ["0.9700", "0.9625", "0.0125"]
    assert any("a drop of 0.02." in line for line in lines)


def test_front_table_says_why_the_search_ended_when_it_ended_early(front: dict[str, Any]) -> None:
    stopped = front | {"stopped_early": {"said": "stopped early: the last 30 of 60 trials added 0.00 % to the hypervolume"}}
    assert any("The search stopped early: the last 30 of 60 trials" in line for line in rendered(front_table(stopped)))


def test_front_table_compares_validation_when_a_point_has_no_test_accuracy(front: dict[str, Any]) -> None:
    front["points"][0]["test_accuracy"] = None
    lines = rendered(front_table(front))
    header = " ".join(line for line in lines[:4])
    assert header.split().count("val") == 2  # the accuracy and the drop
    assert line_with(lines, "*7")[1:4] == ["97.90", "-", "0.10"]
    assert line_with(lines, "12")[3] == "1.00"


def test_front_table_has_no_star_when_no_point_is_best(front: dict[str, Any]) -> None:
    front |= {"points": [], "best": None}
    text = "\n".join(rendered(front_table(front)))
    assert "*" not in text
    assert "No plan met the budget." in text


def test_front_table_names_every_bound_when_the_budget_has_more(front: dict[str, Any]) -> None:
    front["budget"] |= {"max_drop": 1.0, "size_bytes": 250_000}
    assert "0.421 ms for the upper end of the interval, a drop of 1 points, 250 KB" in "\n".join(rendered(front_table(front)))


def test_front_table_loses_nothing_when_80_columns_wide(front: dict[str, Any]) -> None:
    lines = rendered(front_table(front), width=80)
    words = " ".join(lines).split()
    assert max(len(line) for line in lines) <= 80
    assert [word for word in ("[0.237-0.263]", "3.20x", "250", "pruned", "[0.380-0.420]") if word not in words] == []


def test_profile_table_adds_up_when_a_layer_was_not_timed() -> None:
    rows = [
        ProfileRow("layer1.0.conv1", "conv", 2_000_000, 2_304, 0.05, 0.5, 0.02, 0.03, 0.05),
        ProfileRow("layer1.0.conv2", "depthwise", 500_000, 1_000, 0.025, 0.25, -0.01),
        ProfileRow("[fc]", "linear", 10_000, 650, None, None),
    ]
    lines = rendered(profile_table(rows, ProfileSums(whole_ms=0.08, nodes_ms=0.076, raw_nodes_ms=0.1, peak_gmacs=80.0)))
    # 2 MMACs in 0.05 ms are 40 GMAC/s, half of the peak; 0.5 in 0.025 are 20
    shown = ["layer1.0.conv1", "2.00", "0.050", "50.0%", "40.0", "50%", "+0.020", "+0.030", "+0.050"]
    assert line_with(lines, "layer1.0.conv1") == shown
    assert line_with(lines, "layer1.0.conv2")[4:] == ["20.0", "25%", "-0.010", "-", "-"]
    assert line_with(lines, "[fc]") == ["[fc]", "0.01", *["-"] * 7]
    assert line_with(lines, "total") == ["total", "2.51", "0.075", "75.0%", "+0.010", "+0.030", "+0.050"]
    text = " ".join(" ".join(lines).split())
    assert "The layers add up to 0.076 ms, 95% of the whole model's p50 of 0.080 ms" in text
    assert "with the profiler's own cost they show 0.100 ms" in text


def test_profile_table_keeps_names_whole_when_80_columns_wide() -> None:
    row = ProfileRow("layer2.0.downsample.0", "conv", 115_610_000, 2_304, 13.67, 0.1234, -10.383, 10.401, 13.671)
    lines = rendered(profile_table([row], ProfileSums(14.0, 13.67, 13.7, 65.4)), width=80)
    assert line_with(lines, "layer2.0.downsample.0")[-1] == "+13.671"


def test_front_table_marks_the_nearest_when_none_is_within(front: dict[str, Any]) -> None:
    nearest = front["points"][2] | {"within": False, "misses": [{"said": "it loses 3 points, 2 more than the 1 allowed"}]}
    text = " ".join(" ".join(rendered(front_table(front | {"points": [], "nearest": [nearest], "best": None}))).split())
    assert "!31" in text
    assert "! trial 31: it loses 3 points, 2 more than the 1 allowed." in text
    assert "No plan met the budget." in text
