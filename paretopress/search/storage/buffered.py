"""Buffered writes: a trial's parameters and attributes are sent to the storage together."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from paretopress.search.storage.records import WORKER

Param = TypeVar("Param")


class BufferedWrites(BaseStorage, Generic[Param]):
    """A mixin before one of Optuna's storages: a trial's parameters and attributes are written when it names its worker, and when it ends.

    The worker's name is the last attribute that is set before a trial is evaluated, so a trial that has one is not read again until it
    ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._asked: set[int] = set()  # this process's own trials in flight
        self._new_params: dict[int, list[Param]] = {}
        self._new_attributes: dict[int, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's; attributes of a trial that this process asked for are held back until its worker's name is set."""
        if trial_id not in self._asked:
            super().set_trial_user_attr(trial_id, key, value)  # type: ignore[safe-super]  # Optuna's storage comes next
            return
        self._new_attributes.setdefault(trial_id, {})[key] = value
        if key == WORKER:
            self.write(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna's."""
        self.write(trial_id)
        if state.is_finished():
            self._asked.discard(trial_id)
        return super().set_trial_state_values(trial_id, state, values)  # type: ignore[safe-super]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's."""
        self.write(trial_id)
        return super().get_trial(trial_id)  # type: ignore[safe-super]

    def write(self, trial_id: int) -> None:
        """Write what there is of a trial that was asked for here; raises UpdateFinishedTrialError where it was ended meanwhile."""
        params, attributes = self._new_params.pop(trial_id, []), self._new_attributes.pop(trial_id, {})
        if params or attributes:
            self._write(trial_id, params, attributes)

    def _keep_param(self, trial_id: int, param: Param) -> None:
        """Keep a parameter, as it is to be written."""
        self._new_params.setdefault(trial_id, []).append(param)

    @abstractmethod
    def _write(self, trial_id: int, params: list[Param], attributes: dict[str, Any]) -> None:
        """Write a trial's facts."""
