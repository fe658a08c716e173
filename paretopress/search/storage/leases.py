"""Leases of a shared study: which worker holds which trial or finalist."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import optuna

from paretopress.search.limits import GRACE_S, WORDS
from paretopress.system.periodic import periodically

_CLAIM, _ALIVE = "claim/", "alive/"
# the longest of these moments
_MOMENT_S = 0.2


@dataclass(slots=True)
class Leases:
    """Leases on finalists in a study's attributes. `clock` returns seconds that all hosts agree on.

    `worker` is given as a name for people to read and becomes this object's own: two containers can share their host's name and the
    numbers of their processes, so a random part follows it.

    A lease expires when it was not renewed for `grace_s`: its process has died.

    A process holds a lease if it finds no other after writing its own: of two processes at most one does. Where both see both, neither
    does, and each tries again after a random moment.
    """

    study: optuna.Study
    worker: str
    grace_s: float = GRACE_S
    clock: Callable[[], float] = time.time
    _mine: set[int] = field(init=False, default_factory=set)
    _seen_since: dict[int, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.worker = f"{self.worker}#{secrets.token_hex(4)}"

    def take(self, number: int) -> bool:
        """Take the lease of a finalist; return whether this process holds it."""
        self._write(number)
        if number in self.others():
            self.study.set_user_attr(self._name(number), None)
            time.sleep(_MOMENT_S * random.random())
            return False
        self._mine.add(number)
        return True

    def release(self, number: int) -> None:
        """Release a lease, because the finalist is recorded or failed."""
        if number in self._mine:
            self._mine.discard(number)
            self.study.set_user_attr(self._name(number), None)

    def renew(self) -> None:
        """Renew the leases of this process, and its heartbeat."""
        self.study.set_user_attr(f"{_ALIVE}{self.worker}", self.clock())
        for number in list(self._mine):
            self._write(number)

    def others(self) -> set[int]:
        """Return the trials that other processes are recovering."""
        now, found = self.clock(), set()
        for name, renewed_at in self.study.user_attrs.items():
            if name.startswith(_CLAIM) and renewed_at is not None and now - renewed_at < self.grace_s:
                number, _, worker = name.removeprefix(_CLAIM).partition("/")
                if worker != self.worker:
                    found.add(int(number))
        return found

    def leave(self) -> None:
        """Record that this process has left the study."""
        self.study.set_user_attr(f"{_ALIVE}{self.worker}", None)

    def at_work(self) -> set[str]:
        """Return the other processes that work on the study: their heartbeat is recent, and they have not left."""
        now, words = self.clock(), self.study.user_attrs.items()
        lately = {name for name, at in words if name.startswith(_ALIVE) and at is not None and now - at < self.grace_s}
        return {name.removeprefix(_ALIVE) for name in lately} - {self.worker}

    def silent(self) -> Callable[[str, int], bool]:
        """Return whether (a worker, by name) has not said for `grace_s` that it lives, while it was at (a trial, by number).

        Where it never did, time counts from when this process first asked for that trial. A trial's own moment would not do: behind
        Optuna's proxy it is the local time of the proxy's host, without its zone.
        """
        now, attributes = self.clock(), self.study.user_attrs

        def is_silent(worker: str, trial: int) -> bool:
            at = attributes.get(f"{_ALIVE}{worker}")
            return now - (self._seen_since.setdefault(trial, now) if at is None else float(at)) >= self.grace_s

        return is_silent

    def _name(self, number: int) -> str:
        return f"{_CLAIM}{number}/{self.worker}"

    def _write(self, number: int) -> None:
        self.study.set_user_attr(self._name(number), self.clock())


@contextmanager
def renewed(leases: Leases | None) -> Iterator[None]:
    """Renew leases within the block, at once and then from a background thread."""
    if leases is None:
        yield
        return
    leases.renew()
    with periodically(leases.renew, leases.grace_s / WORDS):
        yield
