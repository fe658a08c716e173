"""How a user's own typed code uses the package; mypy checks it, nothing runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import TensorDataset

import paretopress
from paretopress import Budget, Point, Progress, Reporter, Result, RunConfig, Target, Task


class Lines:
    """A reporter."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, progress: Progress) -> None:
        self.lines.append(f"{progress.done} trials")

    def message(self, text: str) -> None:
        self.lines.append(text)


def searched(model: nn.Module, data: tuple[TensorDataset, TensorDataset, TensorDataset]) -> Point:
    reporter: Reporter = Lines()

    def heard(name: str, fields: Mapping[str, Any]) -> None:
        print(name, sorted(fields))

    config = RunConfig.model_validate({"recovery": {"batch_size": 64}})
    result: Result = paretopress.compress(
        model, data, budget=Budget(speedup=2.0), run="runs/night", hours=8.0, config=config, reporter=reporter, on_event=heard
    )
    points: tuple[Point, ...] = result.points
    fast = [point for point in points if point.latency_vs_baseline < 0.5 and point.within]
    bundle: Path = result.export("bundle", trial=fast[0].trial)
    checked: paretopress.Verification = paretopress.verify_bundle(bundle)
    print(checked.samples, result.baseline.test_accuracy, result.best().plan.bits)
    return paretopress.resume("runs/night", model, data, hours=1.0, should_stop=lambda: True).best()


def named(target: Target, task: Task) -> str:
    return f"{target.name}: {task.metric.name}, one of {paretopress.TASKS.listed()}"
