"""A target that replays the latencies recorded by another run, so that two searches can be compared."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError
from paretopress.runtimes.runtime import OpenFile
from paretopress.targets.file_facts import file_facts
from paretopress.targets.local import LocalTarget


class ReplayTarget:
    """Gives the recorded latencies of a file in the order in which they were measured; runs files on this host."""

    def __init__(self, recorded: Iterable[tuple[str, Latency]]) -> None:
        self._here = LocalTarget()
        self._left: dict[str, deque[Latency]] = defaultdict(deque)
        for sha256, latency in recorded:
            self._left[sha256].append(latency)

    @property
    def name(self) -> str:
        """See `Target`."""
        return "replay"

    def environment(self) -> dict[str, Any]:
        """See `Target`."""
        return self._here.environment()

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        """See `Target`."""
        return self._here.run(path, feed)

    def opened(self, path: Path, *, beside_others: bool = False) -> AbstractContextManager[OpenFile]:
        """See `Target`."""
        return self._here.opened(path, beside_others=beside_others)

    def measure(self, candidate: Path, reference: Path, **_: Any) -> Latency:
        """Return the next latency that was recorded of the file, the last one again when they are used up.

        Raises: LatencyError: the file was not measured in the recorded run.
        """
        left = self._left.get(file_facts(candidate)[1])
        if not left:
            raise LatencyError(
                "a replayed latency must have been recorded, but this file was not measured then",
                "The training came out differently: was it the same model, data, threads and versions?",
            )
        return replace(left[0] if len(left) == 1 else left.popleft(), duration_s=0.0)

    def measure_baseline(self, path: Path, *, feed: Feed, rng: np.random.Generator) -> Latency:
        """See `measure`."""
        return self.measure(path, path)

    def close(self) -> None:
        """See `Target`."""
        self._here.close()
