"""The interface of a target: whatever can run an ONNX file, and measure it beside the baseline file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.runtimes.runtime import OpenFile


class Target(Protocol):
    """Runs and measures ONNX files where the model will run.

    A `feed` maps each input name to an array; what is timed has batch 1, e.g. (1, C, H, W) float32. A feed is never mutated.
    A target that is not this process also raises TargetLostError where it cannot be reached any more.
    """

    @property
    def name(self) -> str:
        """The target as the user gave it, without options: "local", or "ssh://user@host:22"."""
        ...

    def environment(self) -> dict[str, Any]:
        """Return what the target is, and the state it is in, as JSON values; see `targets.environment`."""
        ...

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs of one run of a file, in the order of its outputs. Raises LatencyError: the file or the feed fails."""
        ...

    def opened(self, path: Path, *, beside_others: bool = False) -> AbstractContextManager[OpenFile]:
        """Return a block in which a file is open in one session, for many runs; the target measures nothing meanwhile.

        Args:
            beside_others: other files are open too: the session leaves them cores and memory between two runs.
        Raises: LatencyError: the runtime does not load the file.
        """
        ...

    def measure(
        self,
        candidate: Path,
        reference: Path,
        *,
        baseline_ms: float | None,
        limit_ms: float | None,
        feed: Feed,
        rng: np.random.Generator,
    ) -> Latency:
        """Return the latency of `candidate`, measured in turns with `reference`, on the scale where `reference` takes `baseline_ms`.

        It is measured again while `limit_ms` lies inside its interval. With `baseline_ms` None both files must be the same.
        Raises: LatencyError: a session failed, or fewer than 5 blocks finished.
        """
        ...

    def measure_baseline(self, path: Path, *, feed: Feed, rng: np.random.Generator) -> Latency:
        """Return the latency of `path` measured against itself; its `latency_ms` is the scale of every later ratio.

        Raises: LatencyError: a session failed, or fewer than 5 blocks finished.
        """
        ...

    def close(self) -> None:
        """Let go of what the target holds, here and there; must be called when it is used no more."""
        ...
