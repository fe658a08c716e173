"""A timer that adds up seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class StageTimer:
    """Seconds by stage; it runs from the moment that it is made, or from `before_s` seconds before."""

    seconds: dict[str, float] = field(default_factory=dict)
    before_s: float = 0.0
    _began: float = field(init=False, default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return self.before_s + time.monotonic() - self._began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
