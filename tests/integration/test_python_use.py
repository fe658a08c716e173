"""`compress` and `resume` as Python users call them, on a target that takes no time."""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from by_size import BySize

import paretopress
from paretopress.targets.probe import probing

CONFIG = {
    "recovery": {"short_steps": 0, "final_steps": 0, "batch_size": 32},
    "target": {"probe": False},
    "disk": {"cache_mb": 0},
    "time": {"finalists": 1, "stop_early": False},
    "evaluators": ["megabytes"],
}


def test_compress_ends_when_it_should_stop_and_resume_goes_on(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "open_target", lambda spec, settings: BySize(settings))
    monkeypatch.setattr(paretopress.EVALUATORS, "_named", {})
    paretopress.EVALUATORS.register("megabytes", lambda path, feed: path.stat().st_size / 1e6)
    user, run = runpy.run_path(str(workplace / "user.py")), workplace / "run"
    heard: Counter[str] = Counter()

    def hear(name: str, fields: Mapping[str, Any]) -> None:
        heard[name] += 1

    budget = paretopress.Budget(latency_ms=1000.0)
    stopped = paretopress.compress(
        user["make"](),
        user["data"](),
        run=run,
        budget=budget,
        trials=6,
        config=CONFIG,
        on_event=hear,
        should_stop=lambda: heard["trial"] >= 2,
    )
    assert (heard["asked"], heard["trial"], heard["finalist"], heard["finished"]) == (2, 2, 0, 1)
    for point in (stopped.baseline, *stopped.points):
        assert point.figures == {"megabytes": point.size_bytes / 1e6}
    assert stopped.best() in stopped.points
    ended = paretopress.resume(run, user["make"](), user["data"](), on_event=hear)
    assert (heard["trial"], heard["finalist"], heard["finished"]) == (6, 1, 2)
    assert sum(ended.front["trials"].values()) == 6
    assert ended.best().within
    assert paretopress.open_result(run).points == ended.points


def test_front_of_data_without_labels_names_the_agreement(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "open_target", lambda spec, settings: BySize(settings))
    user = runpy.run_path(str(workplace / "user.py"))
    photos = tuple([x for x, _ in split] for split in user["data"]())
    result = paretopress.compress(
        user["make"](),
        photos,
        run=workplace / "run",
        budget=paretopress.Budget(latency_ms=1000.0),
        trials=2,
        config=CONFIG | {"evaluators": []},
    )
    assert result.front["metric"] == {"name": "agreement", "unit": "%", "higher_is_better": True}
    assert result.baseline.val_accuracy == 100.0
