"""A target that takes no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretopress.core.outcome import Latency
from paretopress.targets.local import LocalTarget


class BySize(LocalTarget):
    """Each file takes the longer, the larger it is."""

    def measure(self, candidate: Path, reference: Path, **_: Any) -> Latency:
        ratio = candidate.stat().st_size / reference.stat().st_size
        return Latency(ratio, (ratio, ratio), ratio, (ratio, ratio), ratio, ratio, 1.0, 16, 160, 0.5)

    def measure_baseline(self, path: Path, **_: Any) -> Latency:
        return self.measure(path, path)
