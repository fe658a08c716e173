"""The examples of CONTRIBUTING.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from four_layers import SPACE

from paretopress.core.registry import Registry
from paretopress.evaluators.registry import EVALUATORS, further_figures
from paretopress.report.live import REPORTERS, Progress
from paretopress.runtimes.onnx_runtime import ONNX_RUNTIME
from paretopress.runtimes.registry import RUNTIMES
from paretopress.runtimes.runtime import SessionSettings
from paretopress.search.samplers.registry import SAMPLERS, make_sampler
from paretopress.targets.local import LocalTarget
from paretopress.targets.open_target import TARGETS, open_target
from paretopress.tasks.choose import TASKS, task_by

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
REGISTRIES: tuple[Registry[Any], ...] = (EVALUATORS, REPORTERS, RUNTIMES, SAMPLERS, TARGETS, TASKS)


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every example; what they register is gone after the test."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_named", dict(registry._named))
    for block in BLOCKS:
        exec(compile(block, "CONTRIBUTING.md", "exec"), {})


def test_there_is_an_example_of_each_registry() -> None:
    for registry in REGISTRIES:
        assert f"{registry.kind.upper()}S.register(" in TEXT


def test_evaluator_measures_a_file(doubling: Path) -> None:
    figures = further_figures(["packed_kb"], doubling, {})
    assert 0.0 < figures["packed_kb"] < doubling.stat().st_size / 1e3 + 0.1


def test_sampler_proposes_plans() -> None:
    assert make_sampler("small-generations", SPACE, 0)._population_size == 8  # type: ignore[attr-defined]


def test_task_scores_classes_alike() -> None:
    scorer = task_by("Balanced Accuracy").scorer()
    scorer.update([np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])], np.array([0, 0, 1, 1]))  # all of the first, half of the second
    assert scorer.score() == 75.0


def test_target_is_pinned_to_the_cores_of_its_spec() -> None:
    target = open_target("pinned://0", SessionSettings())
    assert isinstance(target, LocalTarget)
    assert target.settings.cores == (0,)


def test_runtime_computes_what_onnx_runtime_does(doubling: Path) -> None:
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    target = LocalTarget(runtime=RUNTIMES.get("reference"))
    opened = ONNX_RUNTIME.open(doubling, SessionSettings())
    assert np.array_equal(target.run(doubling, feed)[0], opened.run(feed)[0])
    with target.opened(doubling) as reference:
        assert reference.inputs == opened.inputs == (("x", ("batch", 3)),)


def test_reporter_writes_a_line_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reporter = REPORTERS.get("csv")()
    reporter.message("hello")
    reporter.update(Progress("search", 3, None, 12.34, 5.0, None, 3, 0, 0, 0, "", 1, 0.5, ""))
    assert Path("progress.csv").read_text() == "12.3,3,0.5\n"
