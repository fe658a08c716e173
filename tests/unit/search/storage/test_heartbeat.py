from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from paretopress.search.storage.heartbeat import fail_stale, heartbeat
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.records import RETRY_OF, WORKER

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def study() -> optuna.Study:
    """A study in a storage without heartbeats, as one behind the gRPC proxy is."""
    return optuna.create_study()


def started(study: optuna.Study, worker: str | None) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("x", 0.0, 1.0)
    if worker is not None:
        trial.set_user_attr(WORKER, worker)
    return trial


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_fail_stale_tries_the_trials_of_the_silent_once_more_and_no_others(study: optuna.Study) -> None:
    now = [1_000.0]
    dead, living = (Leases(study, name, 90.0, lambda: now[0]) for name in ("dead", "living"))
    for leases in (dead, living):
        leases.renew()
    lost, _ = started(study, dead.worker), started(study, living.worker)
    now[0] += 80.0
    living.renew()
    fail_stale(study, living)
    assert states(study) == [TrialState.RUNNING] * 2
    now[0] += 20.0
    fail_stale(study, living)
    fail_stale(study, living)
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    again = study.get_trials()[2]
    assert again.user_attrs[RETRY_OF] == lost.number
    assert again.system_attrs["fixed_params"] == lost.params


def test_fail_stale_ends_a_trial_for_good_when_it_was_tried_again_before(study: optuna.Study) -> None:
    now = [1_000.0]
    leases = Leases(study, "living", 90.0, lambda: now[0])
    for _ in range(2):
        started(study, "dead").set_user_attr(RETRY_OF, 7)
    study.set_user_attr("alive/dead", now[0])
    now[0] += 90.0
    fail_stale(study, leases)
    assert states(study) == [TrialState.FAIL] * 2


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets this process's time zone."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("here", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_fail_stale_counts_from_the_first_look_when_no_word_came(study: optuna.Study, zone: Callable[[str], None], here: str) -> None:
    zone("UTC")  # of the proxy's host, which notes when a trial began in its local time
    trial = started(study, None)
    zone(here)
    now = [time.time()]
    leases = Leases(study, "living", 90.0, lambda: now[0])
    for _ in range(2):
        fail_stale(study, leases)
        assert states(study) == [TrialState.RUNNING]
        now[0] += 89.0
    now[0] -= 88.0
    fail_stale(study, leases)
    assert study.get_trials()[trial.number].state is TrialState.FAIL


def test_fail_stale_retries_a_queued_plan_when_no_parameter_was_written(study: optuna.Study) -> None:
    now = [1_000.0]
    leases = Leases(study, "living", 90.0, lambda: now[0])
    study.enqueue_trial({"x": 0.25})
    study.ask()
    for _ in range(2):
        fail_stale(study, leases)
        now[0] += 90.0
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]
    assert study.ask().suggest_float("x", 0.0, 1.0) == 0.25


def test_fail_stale_ends_a_trial_without_worker_when_heartbeats_are_kept(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}", heartbeat_interval=60, grace_period=120)
    study = optuna.create_study(storage=storage)
    now = [1_000.0]
    leases = Leases(study, "living", 90.0, lambda: now[0])
    started(study, None)
    started(study, "another")  # of which the database's own clock tells
    for _ in range(2):
        fail_stale(study, leases)
        now[0] += 90.0
    assert states(study) == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    storage.engine.dispose()


def test_heartbeat_tells_the_storage_again_when_the_database_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}", heartbeat_interval=60, grace_period=120)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    beats = threading.Semaphore(0)
    said = []

    def record(trial_id: int) -> None:
        said.append(trial_id)
        beats.release()
        raise StorageInternalError("the database is away")

    monkeypatch.setattr(study._storage, "record_heartbeat", record)
    monkeypatch.setattr(study._storage, "get_heartbeat_interval", lambda: 0.01)
    with heartbeat(study, trial):
        for _ in range(3):
            assert beats.acquire(timeout=10.0)
    assert set(said) == {trial._trial_id}
    storage.engine.dispose()


def test_heartbeat_is_none_where_the_storage_keeps_none(study: optuna.Study) -> None:
    before = threading.active_count()
    with heartbeat(study, started(study, "one")):
        assert threading.active_count() == before


def test_fail_stale_leaves_a_trial_alone_when_its_own_process_was_first(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    leases = Leases(study, "living", 90.0, lambda: now[0])
    trial = started(study, "slow")
    study.set_user_attr("alive/slow", 0.0)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    study.tell(trial, 1.0)
    monkeypatch.setattr(study, "get_trials", lambda **_: running)
    fail_stale(study, leases)
    monkeypatch.undo()
    assert states(study) == [TrialState.COMPLETE]


def test_fail_stale_reads_what_the_workers_said_once_however_many_they_are(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(study, "living", 90.0, lambda: 1_000.0)
    for worker in "abcd":
        started(study, worker)
    reads: list[int] = []
    read = study._storage.get_study_user_attrs
    monkeypatch.setattr(study._storage, "get_study_user_attrs", lambda study_id: reads.append(study_id) or read(study_id))
    fail_stale(study, leases)
    assert len(reads) == 1
