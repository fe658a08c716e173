"""Optuna's heartbeat for trials that are asked for and told: it keeps one itself only for `study.optimize`.

Optuna warns of that, and that the heartbeat is experimental, at every trial; the command line passes these warnings over. It is not
done here, because `warnings.catch_warnings` is not for threads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread, is_heartbeat_enabled
from optuna.trial import FrozenTrial, Trial, TrialState

from paretopress.search.claims import Claims
from paretopress.search.records import WORKER, retry_once

KNOWN_WARNINGS = (
    "Heartbeat of storage is supposed to be used with Study.optimize",
    "optuna.storages._heartbeat.fail_stale_trials is experimental",
)


def heartbeat(study: optuna.Study, trial: Trial) -> AbstractContextManager[None]:
    """Return a block in which the storage is told that the trial's process lives; nothing where the storage keeps no heartbeat."""
    return get_heartbeat_thread(trial._trial_id, study._storage)  # type: ignore[return-value]  # what Study.optimize itself uses


def fail_stale(study: optuna.Study, claims: Claims) -> None:
    """End the trials whose processes have not been heard of for long; their plans are tried once more, see `records.retry_once`.

    Where the storage keeps no heartbeat, as behind Optuna's gRPC proxy, the workers' own words in the study's attributes count.
    """
    if is_heartbeat_enabled(study._storage):
        fail_stale_trials(study)
        return
    silent = claims.silent()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
        if silent(str(trial.user_attrs.get(WORKER)), began) and _failed(study, trial):
            retry_once(study, trial)


def _failed(study: optuna.Study, trial: FrozenTrial) -> bool:
    """End a trial; return False where another process was first, or its own came back."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    return True
