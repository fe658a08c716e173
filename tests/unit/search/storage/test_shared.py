"""The storages of a shared run beside Optuna's own, on one database file: in the database itself, and through the proxy before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from loopback import free_port
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import get_storage
from optuna.storages._grpc.server import make_server
from optuna.trial import TrialState
from written_trials import DISTRIBUTIONS, begun, ended, opened

from paretopress.errors import ConfigError
from paretopress.search.storage.grpc_proxy import ProxyStorage, proxy_server
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.search.storage.rdb import DatabaseStorage
from paretopress.search.storage.records import LATENCY, WORKER

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def proxy(url: str) -> Iterator[int]:
    """The port of a proxy before the database."""
    behind, port = DatabaseStorage(url), free_port()
    server = proxy_server(behind, "127.0.0.1", port)
    server.start()
    yield port
    server.stop(None).wait()
    behind.engine.dispose()


@pytest.fixture
def proxied(proxy: int) -> Iterator[ProxyStorage]:
    storage = ProxyStorage("127.0.0.1", proxy)
    yield storage
    storage.close()


@pytest.fixture(params=["direct", "proxied"])
def ours(request: pytest.FixtureRequest) -> optuna.Study:
    """A study in one of our storages, in which a first trial is in flight: it alone is compared with what the storage holds."""
    study = opened(request.getfixturevalue(request.param))
    begun(study)
    return study


def replies(storage: ProxyStorage, patch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Return a list that the reply to every later call of this name is added to."""
    said: list[Any] = []
    call = storage._call

    def noted(asked: str, *how: Any, **request: Any) -> Any:
        reply = call(asked, *how, **request)
        if asked == name:
            said.append(reply)
        return reply

    patch.setattr(storage, "_call", noted)
    return said


def test_storage_reads_what_optunas_reads_when_trials_are_of_every_state(ours: optuna.Study, optunas: optuna.Study) -> None:
    ended(ours, begun(ours))
    ended(optunas, begun(optunas))
    ours.tell(begun(ours), state=TrialState.FAIL)
    ours.enqueue_trial({"kept": 16}, user_attrs={"retry_of": 0})
    storage = ours._storage
    number = begun(ours)._trial_id  # takes the one that waits
    storage.set_trial_intermediate_value(number, 3, float("inf"))
    ours.enqueue_trial({"kept": 24})
    ours.ask()
    ours.enqueue_trial({"kept": 32})
    read, expected = ours.get_trials(), optunas.get_trials()
    assert [trial.state.name for trial in read] == ["RUNNING", "COMPLETE", "COMPLETE", "FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert read == expected
    assert [set(trial.params) for trial in read] == [set(trial.params) for trial in expected]
    assert storage.get_trial(number) == expected[4]
    assert [t.constraints for t in read[1:3]] == [{"latency": -0.5, "drop": 0.25}] * 2


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE])
def test_all_is_written_when_a_trial_ends_without_naming_a_worker(ours: optuna.Study, optunas: optuna.Study, state: TrialState) -> None:
    trial = ours.ask(fixed_distributions=DISTRIBUTIONS)
    trial.set_user_attr("error", "out of memory")
    ours.tell(trial, [1.0, 2.0] if state is TrialState.COMPLETE else None, state=state)
    stored = optunas.get_trials()[trial.number]
    assert (stored.params, stored.user_attrs, stored.state) == (trial.params, {"error": "out of memory"}, state)


def test_a_trial_in_flight_is_read_again_until_it_names_its_worker(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = optunas.ask()
    assert ours.get_trials()[trial.number].params == {}
    trial.suggest_int("kept", 0, 64, step=8)
    assert ours.get_trials()[trial.number].params == trial.params
    trial.set_user_attr(WORKER, "another")
    assert ours.get_trials()[trial.number].user_attrs == {WORKER: "another"}


def test_a_trial_is_seen_to_end_when_another_process_ends_it(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = begun(optunas)
    assert ours.get_trials()[trial.number].params == trial.params
    ended(optunas, trial)
    last = ours.get_trials()[trial.number]
    assert (last.state, last.user_attrs["outcome"], last.params) == (TrialState.COMPLETE, {"macs": 7}, trial.params)


def test_writing_fails_as_optunas_does_when_another_ended_the_trial(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = begun(ours)
    optunas.tell(trial.number, state=TrialState.FAIL)
    trial.set_user_attr("outcome", {})
    with pytest.raises(UpdateFinishedTrialError):
        ours.tell(trial, [1.0, 2.0])


def test_an_attribute_of_a_trial_that_another_asked_for_is_written_at_once(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = begun(optunas)
    ours._storage.set_trial_user_attr(trial._trial_id, "outcome", 1)
    assert optunas.get_trials()[trial.number].user_attrs["outcome"] == 1
    optunas.tell(trial, [1.0, 2.0])
    with pytest.raises(UpdateFinishedTrialError):
        ours._storage.set_trial_user_attr(trial._trial_id, "outcome", 2)


def test_trial_is_read_with_parameters_when_it_was_looked_up_before(ours: optuna.Study) -> None:
    trial = begun(ours)
    assert ours._storage.get_trial(trial._trial_id).params == trial.params
    assert ours.get_trials()[trial.number].params == trial.params


def test_what_is_not_there_is_a_key_error(ours: optuna.Study) -> None:
    with pytest.raises(KeyError):
        ours._storage.get_trial(1_000)
    for read in (ours._storage.get_study_user_attrs, ours._storage.get_all_trials):
        with pytest.raises(KeyError):
            read(1_000)


def test_a_trial_is_written_through_the_proxy_in_two_calls(proxied: ProxyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = opened(proxied)
    said = replies(proxied, monkeypatch, "Write")
    trial = begun(study)
    assert len(said) == 1
    ended(study, trial)
    assert len(said) == 2


def test_a_trial_in_flight_is_sent_once_and_again_when_it_has_ended(
    proxied: ProxyStorage, direct: DatabaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, another = opened(proxied), opened(direct)
    trial = begun(another)
    assert len(study.get_trials()) == 1
    said = replies(proxied, monkeypatch, "Trials")
    assert study.get_trials()[0].params == trial.params
    ended(another, trial)
    assert study.get_trials()[0].state is TrialState.COMPLETE
    study.get_trials()
    assert [len(reply.trials) for reply in said] == [0, 1, 0]


def test_trials_share_their_distributions_when_a_proxy_sent_them(proxied: ProxyStorage) -> None:
    study = opened(proxied)
    for _ in range(2):
        ended(study, begun(study))
    first, second = study.get_trials(deepcopy=False)
    assert all(first.distributions[name] is second.distributions[name] for name in DISTRIBUTIONS)


def test_a_repeated_latency_is_sent_once_and_other_attributes_always(
    proxied: ProxyStorage, direct: DatabaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, another = opened(proxied), opened(direct)
    another.set_user_attr("elapsed_s", 1.0)
    for name in "bc":
        another.set_user_attr(f"{LATENCY}{name}/1", {"ms": name})
    assert study.user_attrs == another.user_attrs
    another.set_user_attr("elapsed_s", 2.0)
    for name in "ad":
        study.set_user_attr(f"{LATENCY}{name}/1", {"ms": name})
    said = replies(proxied, monkeypatch, "Attributes")
    for _ in range(2):
        assert study.user_attrs == another.user_attrs
    assert [set(reply["attributes"]) for reply in said] == [{"elapsed_s", f"{LATENCY}a/1", f"{LATENCY}d/1"}, {"elapsed_s"}]


def test_no_latency_is_missing_when_the_proxy_was_started_again(proxied: ProxyStorage, direct: DatabaseStorage) -> None:
    study, another = opened(proxied), opened(direct)
    for name in "bd":
        another.set_user_attr(f"{LATENCY}{name}/1", {"ms": name})
    assert len(study.user_attrs) == 2
    for name in "ac":
        another.set_user_attr(f"{LATENCY}{name}/1", {"ms": name})
    later = proxy_server(direct, "127.0.0.1", port := free_port())  # it meets all four at once
    later.start()
    proxied._port = port
    proxied._setup()
    assert study.user_attrs == another.user_attrs
    assert len(study.user_attrs) == 4
    later.stop(None).wait()


def test_optunas_own_proxy_is_refused(direct: DatabaseStorage) -> None:
    port = free_port()
    server = make_server(get_storage(direct), "127.0.0.1", port)
    server.start()
    with pytest.raises(ConfigError, match=f"proxy must be one of this version's.*{port}.*paretopress proxy"):
        open_storage(StudyPlace(f"grpc://127.0.0.1:{port}", "s"))
    server.stop(None).wait()


def test_our_proxy_is_taken(proxy: int) -> None:
    storage = open_storage(StudyPlace(f"grpc://127.0.0.1:{proxy}", "s"))
    assert isinstance(storage, ProxyStorage)
    storage.close()
