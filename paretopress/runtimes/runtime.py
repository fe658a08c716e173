"""The interface of a runtime: what opens a model's file in a session, and runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from paretopress.core.arrays import Feed
from paretopress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session runs: `threads` inside one operator; `inter_op` > 1 runs operators side by side; `cores` it is pinned to, if any."""

    threads: int = 1
    inter_op: int = 1
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("threads", "inter_op"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but got {name}={getattr(self, name)}")
        if self.cores and len(self.cores) < self.threads:
            raise ConfigError(f"pinned cores must be at least as many as threads, but got cores={self.cores}, threads={self.threads}")

    @property
    def has_workers(self) -> bool:
        """Return whether a session has threads of its own beside the one that calls it."""
        return self.threads > 1 or self.inter_op > 1


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file in a session.

    Attributes:
        inputs: (name, shape) of each input, in order; a dynamic axis is a string or None.
        run: feed -> outputs in the order of the file's. Raises LatencyError: the feed fails.
    """

    inputs: tuple[tuple[str, tuple[int | str | None, ...]], ...]
    run: Callable[[Feed], list[npt.NDArray[Any]]]


class Runtime(Protocol):
    """Opens model files in sessions on this host's CPU."""

    @property
    def name(self) -> str:
        """The name of the package that is the runtime, e.g. "onnxruntime"."""
        ...

    def open(self, path: Path, settings: SessionSettings, *, beside_others: bool = False) -> OpenFile:
        """Return a file in a new session, which ends when nothing refers to it any more.

        Args:
            beside_others: other sessions are open too: this one leaves them cores and memory between two runs.
        Raises: LatencyError: the runtime does not load the file.
        """
        ...

    def conditions(self, settings: SessionSettings) -> dict[str, Any]:
        """Return what a figure measured under these settings stands for, as JSON values.

        Returns: "threads" and "pinned" cores, and under "session" what else the session is told.
        """
        ...
