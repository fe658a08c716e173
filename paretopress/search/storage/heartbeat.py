"""Heartbeats of trials in the ask-and-tell interface: Optuna itself keeps them only for `study.optimize`.

Optuna warns of that, and that the heartbeat is experimental, at every trial; the command line passes these warnings over. It is not
done here, because `warnings.catch_warnings` is not for threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from paretopress.search.storage.leases import Leases
from paretopress.search.storage.records import WORKER, retry_once
from paretopress.system.periodic import periodically


@contextmanager
def heartbeat(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Tell the storage within the block that the trial's process lives; do nothing where the storage keeps no heartbeat."""
    every_s = _every_s(study)
    if every_s is None:
        yield
        return

    def beat() -> None:
        with suppress(StorageInternalError):  # the database was out of reach for a moment: the next word counts
            study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]  # as RDBStorage documents it

    beat()
    with periodically(beat, every_s):
        yield


def fail_stale(study: optuna.Study, leases: Leases) -> None:
    """End the trials whose processes have not been heard of for long; their plans are tried once more, see `records.retry_once`.

    Where the storage keeps no heartbeat, as behind Optuna's gRPC proxy, the times that workers write to the study's attributes decide, see
    `Leases.silent`. A running trial that has named no worker for as long counts as stale too.
    """
    beats = _every_s(study) is not None
    if beats:
        fail_stale_trials(study)
    silent = leases.silent()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if (worker is None or not beats) and silent(str(worker), trial.number) and _failed(study, trial):
            retry_once(study, trial)


def _every_s(study: optuna.Study) -> float | None:
    """Return the seconds between two heartbeats of a storage that keeps them, else None."""
    interval = getattr(study._storage, "get_heartbeat_interval", None)
    return None if interval is None else interval()


def _failed(study: optuna.Study, trial: FrozenTrial) -> bool:
    """End a trial; return False where another process was first, or its own came back."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    return True
