"""Who recovers which finalist, where several processes work on one study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna

_CLAIM = "claim/"
# how often a claim is renewed within the time after which it would be nobody's
_WORDS = 4


@dataclass(slots=True)
class Claims:
    """Claims on finalists in a study's attributes; `worker` names this process. `clock` returns seconds that all hosts agree on.

    A claim that was not renewed for `grace_s` is nobody's: its process died.

    Of two that claim at the same moment the earlier wins, by name if need be. Should clocks differ so much that both think they won, a
    finalist is recovered twice and recorded once.
    """

    study: optuna.Study
    worker: str
    grace_s: float = 90.0
    clock: Callable[[], float] = time.time
    _mine: dict[int, float] = field(init=False, default_factory=dict)

    def take(self, number: int) -> bool:
        """Claim a trial's full recovery; return whether it is this process's."""
        since = self.clock()
        self._write(number, since)
        alive = self._alive().get(number, {})
        if min(alive, key=lambda worker: (alive[worker], worker), default=self.worker) != self.worker:
            self.study.set_user_attr(self._name(number), None)
            return False
        self._mine[number] = since
        return True

    def release(self, number: int) -> None:
        """Give a claim up, because the recovery is recorded or failed."""
        if self._mine.pop(number, None) is not None:
            self.study.set_user_attr(self._name(number), None)

    def renew(self) -> None:
        """Say that this process still works on what it claimed."""
        for number, since in list(self._mine.items()):
            self._write(number, since)

    def others(self) -> set[int]:
        """Return the trials that other processes are recovering."""
        return {number for number, alive in self._alive().items() if set(alive) - {self.worker}}

    def _name(self, number: int) -> str:
        return f"{_CLAIM}{number}/{self.worker}"

    def _write(self, number: int, since: float) -> None:
        self.study.set_user_attr(self._name(number), [since, self.clock()])

    def _alive(self) -> dict[int, dict[str, float]]:
        """Return trial -> worker -> since when, of the claims that were renewed lately."""
        now = self.clock()
        found: dict[int, dict[str, float]] = {}
        for name, value in self.study.user_attrs.items():
            if name.startswith(_CLAIM) and value is not None and now - value[1] < self.grace_s:
                number, _, worker = name.removeprefix(_CLAIM).partition("/")
                found.setdefault(int(number), {})[worker] = float(value[0])
        return found


@contextmanager
def renewed(claims: Claims | None) -> Iterator[None]:
    """Renew claims within the block, from a thread of its own."""
    if claims is None:
        yield
        return
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(claims.grace_s / _WORDS):
            claims.renew()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
