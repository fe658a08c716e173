"""Optuna's heartbeat for trials that are asked for and told: it keeps one itself only for `study.optimize`.

Optuna warns of that, and that the heartbeat is experimental, at every trial; the command line passes these warnings over. It is not
done here, because `warnings.catch_warnings` is not for threads.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import optuna
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import Trial

KNOWN_WARNINGS = (
    "Heartbeat of storage is supposed to be used with Study.optimize",
    "optuna.storages._heartbeat.fail_stale_trials is experimental",
)


def heartbeat(study: optuna.Study, trial: Trial) -> AbstractContextManager[None]:
    """Return a block in which the storage is told that the trial's process lives; nothing where the storage keeps no heartbeat."""
    return get_heartbeat_thread(trial._trial_id, study._storage)  # type: ignore[return-value]  # what Study.optimize itself uses


def fail_stale(study: optuna.Study) -> None:
    """End the trials whose processes have not been heard of for long; their plans are tried once more, see `records.retry_once`."""
    fail_stale_trials(study)
