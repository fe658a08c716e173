"""The picture of a front: what is drawn, and that it is written whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from paretopress.errors import RunError
from paretopress.report.plot import draw_front, write_front_png


def legend(front: dict[str, Any]) -> list[str]:
    (box,) = draw_front(front).legends
    return [text.get_text() for text in box.get_texts()]


def drawn(front: dict[str, Any]) -> Axes:
    return draw_front(front).axes[0]


def test_write_front_png_writes_an_image_when_the_front_is_complete(front: dict[str, Any], tmp_path: Path) -> None:
    write_front_png(front, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (1344, 896)  # 8.4 x 5.6 inches at 160 dpi
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00)):
        assert (pixels == color).all(axis=1).sum() > 100


def test_write_front_png_writes_the_same_bytes_when_called_twice(front: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_front_png(front, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_write_front_png_raises_runerror_when_the_folder_is_missing(front: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_front_png(front, tmp_path / "nowhere" / "front.png")


def test_draw_front_explains_every_mark_when_all_are_there(front: dict[str, Any]) -> None:
    front["evaluated"] = [{"latency_ms": 0.3, "val_accuracy": 96.0}, {"latency_ms": 0.3, "val_accuracy": 10.0}]
    assert legend(front) == [
        "front, validation",
        "front, test",
        "baseline, validation",
        "baseline, test",
        "best in budget",
        "other trials (1 outside the picture)",
        "budget 0.421 ms",
    ]


def test_draw_front_leaves_test_out_when_nothing_was_tested(front: dict[str, Any]) -> None:
    for row in (front["baseline"], *front["points"]):
        row["test_accuracy"] = None
    assert legend(front) == ["front, validation", "baseline, validation", "best in budget", "budget 0.421 ms"]


def test_draw_front_puts_the_points_where_they_were_measured_when_drawn(front: dict[str, Any]) -> None:
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in drawn(front).lines}
    assert lines["front, validation"] == [[0.4, 97.9], [0.25, 97.0], [0.2, 95.0]]
    assert lines["front, test"] == [[0.4, 97.6], [0.25, 96.25], [0.2, 94.0]]
    assert lines["best in budget"] == [[0.4, 97.9]]
    assert lines["budget 0.421 ms"] == [[0.421, 0], [0.421, 1]]


def test_draw_front_numbers_the_trials_when_drawn(front: dict[str, Any]) -> None:
    texts = {text.get_text() for text in drawn(front).texts}
    assert {"7 (best)", "12", "31", "baseline"} <= texts
    assert "Testor 3000, 1 thread, 95 % intervals, numbers are trials" in texts


def test_draw_front_keeps_the_front_in_sight_beside_hopeless_trials(front: dict[str, Any]) -> None:
    front["evaluated"] = [{"latency_ms": 9.0, "val_accuracy": 10.0}]
    axes = drawn(front)
    assert axes.get_ylim()[0] > 90.0  # the lowest point has 94 %
    assert axes.get_xlim()[1] == pytest.approx(1.06 * 0.84)  # the upper end of the baseline's interval


def test_draw_front_says_so_when_no_plan_met_the_budget(front: dict[str, Any]) -> None:
    front |= {"points": [], "best": None}
    texts = [text.get_text() for text in drawn(front).texts]
    assert any(text.startswith("No plan met the budget.") for text in texts)
    assert legend(front) == ["baseline, validation", "baseline, test", "budget 0.421 ms"]


def test_draw_front_shows_the_whole_budget_when_it_is_above_the_baseline(front: dict[str, Any]) -> None:
    front["budget"]["limit_ms"] = 2.0
    assert drawn(front).get_xlim()[1] > 2.0


def test_draw_front_leaves_no_figure_with_pyplot_when_drawn(front: dict[str, Any]) -> None:
    draw_front(front)
    assert pyplot.get_fignums() == []


def test_draw_front_sets_the_nearest_apart_when_no_plan_met_the_budget(front: dict[str, Any]) -> None:
    front |= {"nearest": front["points"], "points": [], "best": None}
    labels = drawn(front).get_legend_handles_labels()[1]
    assert "outside the budget, validation" in labels
    assert "front, validation" not in labels
