"""What a process knows of its own trials in flight, and has not written yet."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from paretopress.search.records import WORKER

Param = TypeVar("Param")


class Unwritten(Generic[Param]):
    """Parameters and attributes of the trials that were asked for here; they are written when the trial names its worker and when it ends.

    The worker's name is the last that is said of a trial before its evaluation, so a trial that has one counts as read until it ends.
    """

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._params: dict[int, list[Param]] = {}
        self._attributes: dict[int, dict[str, Any]] = {}

    def __contains__(self, trial_id: int) -> bool:
        """Return whether a trial was asked for here, and has not ended."""
        return trial_id in self._asked

    def ask(self, trial_id: int) -> None:
        """Count a trial as asked for here."""
        self._asked.add(trial_id)

    def end(self, trial_id: int) -> None:
        """Count a trial as ended."""
        self._asked.discard(trial_id)

    def add_param(self, trial_id: int, param: Param) -> None:
        """Keep a parameter, as it is to be written."""
        self._params.setdefault(trial_id, []).append(param)

    def add_attribute(self, trial_id: int, key: str, value: Any) -> bool:
        """Keep an attribute; return whether it is time to write."""
        self._attributes.setdefault(trial_id, {})[key] = value
        return key == WORKER

    def take(self, trial_id: int) -> tuple[list[Param], dict[str, Any]]:
        """Return what is to be written now of a trial, and keep it no longer."""
        return self._params.pop(trial_id, []), self._attributes.pop(trial_id, {})
