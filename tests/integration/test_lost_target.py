"""A run whose target is lost, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopress.api import resume_run, start_run
from paretopress.commands.status import run_status
from paretopress.config import parse_config
from paretopress.core.outcome import Latency
from paretopress.errors import TargetLostError
from paretopress.report.live import SilentReporter
from paretopress.targets.local import LocalTarget
from paretopress.targets.probe import probing

LATENCY = Latency(1.0, (0.99, 1.01), 1.0, (0.99, 1.01), 1.0, 1.1, 1.0, 16, 160, 0.5)


def test_start_run_pauses_and_resume_goes_on_when_the_target_is_lost(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(
        {
            "model": "user.py:make",
            "data": "user.py:data",
            "base": str(workplace),
            "budget": {"latency_ms": 1000.0},
            "time": {"trials": 4, "finalists": 0},
            "recovery": {"short_steps": 0, "final_steps": 0, "batch_size": 32},
            "target": {"probe": False},
            "workers": {"isolated": False},  # in this process, where the target is another
            "disk": {"cache_mb": 0},
        },
        "the test",
    )
    run, measured, closed = workplace / "run", [], []

    class Fading(LocalTarget):
        """Every file takes a millisecond; lost at the fourth measurement: the tables take one, a trial one, and one follows it."""

        def measure(self, candidate: Path, reference: Path, **_: Any) -> Latency:
            measured.append(candidate)
            if len(measured) == 4:
                raise TargetLostError("the target must be in reach, but got no answer", "Is it on?")
            return LATENCY

        def measure_baseline(self, path: Path, **_: Any) -> Latency:
            return LATENCY

        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(probing, "open_target", lambda spec, settings: Fading(settings))
    with pytest.raises(TargetLostError) as caught:
        start_run(config, run, SilentReporter())
    assert caught.value.hint == f"Is it on? The run is paused; when the target is back, `paretopress resume {run}` goes on."
    assert len(closed) == 1
    resume_run(run, SilentReporter())
    ended = run_status(run)
    assert ended["completed"] + ended["rejected_early"] == 4
    assert ended["failed"] == 1  # the trial in flight; its plan was tried again
