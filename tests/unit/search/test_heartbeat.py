from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from paretopress.search.claims import Claims
from paretopress.search.heartbeat import fail_stale
from paretopress.search.records import RETRY_OF, WORKER


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
    dead, living = (Claims(study, name, 90.0, lambda: now[0]) for name in ("dead", "living"))
    for claims in (dead, living):
        claims.renew()
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
    claims = Claims(study, "living", 90.0, lambda: now[0])
    for _ in range(2):
        started(study, "dead").set_user_attr(RETRY_OF, 7)
    study.set_user_attr("alive/dead", now[0])
    now[0] += 90.0
    fail_stale(study, claims)
    assert states(study) == [TrialState.FAIL] * 2


def test_fail_stale_counts_from_the_start_when_a_worker_never_said_a_word(study: optuna.Study) -> None:
    trial = started(study, None)
    began = study.get_trials()[0].datetime_start
    assert began is not None
    now = [began.timestamp() + 89.0]
    claims = Claims(study, "living", 90.0, lambda: now[0])
    fail_stale(study, claims)
    assert states(study) == [TrialState.RUNNING]
    now[0] += 1.0
    fail_stale(study, claims)
    assert study.get_trials()[trial.number].state is TrialState.FAIL


def test_fail_stale_leaves_a_trial_alone_when_its_own_process_was_first(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    claims = Claims(study, "living", 90.0, lambda: now[0])
    trial = started(study, "slow")
    study.set_user_attr("alive/slow", 0.0)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    study.tell(trial, 1.0)
    monkeypatch.setattr(study, "get_trials", lambda **_: running)
    fail_stale(study, claims)
    monkeypatch.undo()
    assert states(study) == [TrialState.COMPLETE]


def test_fail_stale_reads_what_the_workers_said_once_however_many_they_are(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(study, "living", 90.0, lambda: 1_000.0)
    for worker in "abcd":
        started(study, worker)
    reads: list[int] = []
    read = study._storage.get_study_user_attrs
    monkeypatch.setattr(study._storage, "get_study_user_attrs", lambda study_id: reads.append(study_id) or read(study_id))
    fail_stale(study, claims)
    assert len(reads) == 1
