"""How often a run reads its test data, and opens a file on a target that scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from by_size import BySize

from paretopress.api import start_run
from paretopress.config import parse_config
from paretopress.intake.datasets import batches
from paretopress.report.live import SilentReporter
from paretopress.system import arrays_on_disk
from paretopress.targets.probe import probing
from paretopress.trial import pipeline


class Quick(BySize):
    """Counts what is opened to be scored."""

    opened_files: ClassVar[list[Path]] = []

    def opened(self, path: Path, *, beside_others: bool = False) -> Any:
        self.opened_files.append(path)
        return super().opened(path, beside_others=beside_others)


def test_run_scores_its_front_in_one_pass_when_test_data_are_large(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(
        {
            "model": "user.py:make",
            "data": "user.py:data",
            "base": str(workplace),
            "budget": {"latency_ms": 1000.0},
            "time": {"trials": 4, "finalists": 0},
            "recovery": {"short_steps": 0, "final_steps": 0, "batch_size": 32},
            "target": {"probe": False, "score_on_target": True},
            "workers": {"isolated": False},  # in this process, where the target is another
            "disk": {"cache_mb": 0},
        },
        "the test",
    )
    monkeypatch.setattr(Quick, "opened_files", [])
    monkeypatch.setattr(probing, "open_target", lambda spec, settings: Quick(settings))
    monkeypatch.setattr(batches, "MEMORY_BYTES", 1000)
    monkeypatch.setattr(arrays_on_disk, "DISK_BYTES", 0)
    scored, real = list[list[Path]](), pipeline.onnx_accuracies
    monkeypatch.setattr(pipeline, "onnx_accuracies", lambda paths, *args, **options: scored.append(paths) or real(paths, *args, **options))
    front = start_run(config, workplace / "run", SilentReporter()).front
    files = {point["onnx"]["sha256"]: workplace / "run" / point["onnx"]["path"] for point in (front["baseline"], *front["points"])}
    assert len(files) >= 2
    assert [sorted(paths) for paths in scored] == [sorted(files.values())]
    opened = Counter(Quick.opened_files)
    baseline = files.pop(front["baseline"]["onnx"]["sha256"])
    assert opened[baseline] == 2  # on validation data, and on test data
    assert {opened[path] for path in files.values()} == {1}  # on validation data it lay elsewhere
