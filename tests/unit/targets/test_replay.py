from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError
from paretopress.targets.replay import ReplayTarget

LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.0, 1.1, 2.0, 8, 100, 0.3)


def test_measure_gives_the_recorded_latencies_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    target = ReplayTarget([(sha256, LATENCY), ("other", LATENCY), (sha256, replace(LATENCY, latency_ms=2.0))])
    assert [target.measure(file, file).latency_ms for _ in range(3)] == [1.0, 2.0, 2.0]
    assert target.measure(file, file).duration_s == 0.0


def test_measure_says_what_may_be_wrong_when_the_file_was_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"other weights")
    with pytest.raises(LatencyError, match="must have been recorded") as caught:
        ReplayTarget([]).measure(file, file)
    assert "threads" in caught.value.hint
