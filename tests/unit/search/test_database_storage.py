"""The storage of a shared run beside Optuna's own, on one database file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from paretopress.search.database_storage import DatabaseStorage
from paretopress.search.records import LATENCY, WORKER

DISTRIBUTIONS = {
    "kept": IntDistribution(0, 64, step=8),
    "alpha": FloatDistribution(1e-3, 1.0, log=True),
    "bits": CategoricalDistribution((32, 8)),
    "only": CategoricalDistribution(("one",)),
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def ours(url: str) -> Iterator[optuna.Study]:
    """A study in our storage, in which a first trial is in flight: its parameters alone are compared with those in the storage."""
    yield from opened(DatabaseStorage(url))


@pytest.fixture
def optunas(url: str, ours: optuna.Study) -> Iterator[optuna.Study]:
    """The same study in Optuna's own storage, as another process has it."""
    yield from opened(RDBStorage(url))


def opened(storage: RDBStorage) -> Iterator[optuna.Study]:
    study = optuna.create_study(
        storage=storage, study_name="s", directions=["maximize", "minimize"], load_if_exists=True, sampler=optuna.samplers.RandomSampler(0)
    )
    if isinstance(storage, DatabaseStorage):
        begun(study)
    yield study
    storage.engine.dispose()


def begun(study: optuna.Study, worker: str = "w") -> optuna.Trial:
    trial = study.ask(fixed_distributions=DISTRIBUTIONS)
    trial.set_user_attr("plan", {"kept": {"a": 8}})
    trial.set_user_attr(WORKER, worker)
    return trial


def ended(study: optuna.Study, trial: optuna.Trial) -> None:
    trial.set_user_attr("outcome", {"macs": 7})
    for name, value in (("latency", -0.5), ("drop", 0.25)):
        trial.set_constraint(name, value)
    study.tell(trial, [0.5, float("inf")])


def statements(study: optuna.Study) -> list[str]:
    """Return a list that every statement to the database is added to."""
    said: list[str] = []
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda _c, _u, text, *_: said.append(text))
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
    assert [list(trial.params) for trial in read] == [list(trial.params) for trial in expected]
    assert storage.get_trial(number) == expected[4]
    assert [t.constraints for t in read[1:3]] == [{"latency": -0.5, "drop": 0.25}] * 2


def test_storage_reads_the_whole_study_when_it_is_new_to_it(url: str, ours: optuna.Study, optunas: optuna.Study) -> None:
    ended(ours, begun(ours))
    (another,) = [study.get_trials() for study in opened(RDBStorage(url))]
    (new,) = [optuna.load_study(study_name="s", storage=DatabaseStorage(url)).get_trials()]
    assert new == another


def test_parameters_are_written_in_one_statement_when_the_trial_names_its_worker(ours: optuna.Study, optunas: optuna.Study) -> None:
    said = statements(ours)
    trial = ours.ask(fixed_distributions=DISTRIBUTIONS)
    assert optunas.get_trials()[trial.number].params == {}
    trial.set_user_attr(WORKER, "w")
    assert optunas.get_trials()[trial.number].params == trial.params
    assert sum("INSERT INTO trial_params" in text for text in said) == 1


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE])
def test_all_is_written_when_a_trial_ends_without_naming_a_worker(ours: optuna.Study, optunas: optuna.Study, state: TrialState) -> None:
    trial = ours.ask(fixed_distributions=DISTRIBUTIONS)
    trial.set_user_attr("error", "out of memory")
    ours.tell(trial, [1.0, 2.0] if state is TrialState.COMPLETE else None, state=state)
    stored = optunas.get_trials()[trial.number]
    assert (stored.params, stored.user_attrs, stored.state) == (trial.params, {"error": "out of memory"}, state)


def test_a_trial_in_flight_is_read_once_and_again_when_it_has_ended(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = begun(optunas, "another")
    assert ours.get_trials()[trial.number].params == trial.params
    said = statements(ours)
    assert ours.get_trials()[trial.number].params == trial.params
    assert not any("trial_params" in text for text in said)
    ended(optunas, trial)
    last = ours.get_trials()[trial.number]
    assert (last.state, last.user_attrs["outcome"], last.params) == (TrialState.COMPLETE, {"macs": 7}, trial.params)
    assert any("trial_user_attributes" in text for text in said)
    assert not any("trial_params" in text for text in said)  # they do not change


def test_a_trial_in_flight_is_not_lost_when_the_storage_is_opened_a_second_time(ours: optuna.Study, optunas: optuna.Study) -> None:
    others = begun(optunas)
    assert len(ours.get_trials()) == 2
    second = optuna.load_study(study_name="s", storage=ours._storage._backend)  # type: ignore[attr-defined]
    ended(second, begun(second))
    assert [t.number for t in second.get_trials()] == [0, 1, 2]
    ended(optunas, others)
    assert second.get_trials()[1].state is TrialState.COMPLETE


def test_a_trial_in_flight_is_read_again_until_it_names_its_worker(ours: optuna.Study, optunas: optuna.Study) -> None:
    trial = optunas.ask()
    assert ours.get_trials()[trial.number].params == {}
    trial.suggest_int("kept", 0, 64, step=8)
    assert ours.get_trials()[trial.number].params == trial.params
    trial.set_user_attr(WORKER, "another")
    assert ours.get_trials()[trial.number].user_attrs == {WORKER: "another"}


def test_writing_fails_as_optunas_does_when_another_process_has_ended_the_trial(ours: optuna.Study, optunas: optuna.Study) -> None:
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


def test_a_trial_is_read_with_its_parameters_when_it_was_looked_up_alone_before(ours: optuna.Study) -> None:
    trial = begun(ours)
    assert ours._storage.get_trial(trial._trial_id).params == trial.params
    assert ours.get_trials()[trial.number].params == trial.params


def test_a_distribution_that_differs_is_refused_as_optuna_does(ours: optuna.Study) -> None:
    with pytest.raises(ValueError, match="distribution"):
        ours.ask(fixed_distributions={"kept": FloatDistribution(0.0, 1.0)})


def test_what_is_not_there_is_a_key_error(ours: optuna.Study) -> None:
    with pytest.raises(KeyError):
        ours._storage.get_trial(1_000)
    for read in (ours._storage.get_study_user_attrs, ours._storage.get_all_trials):
        with pytest.raises(KeyError):
            read(1_000)


def test_repeated_latencies_are_read_once_and_other_attributes_always(ours: optuna.Study, optunas: optuna.Study) -> None:
    optunas.set_user_attr("elapsed_s", 1.0)
    for name in "ab":
        optunas.set_user_attr(f"{LATENCY}{name}/1", {"ms": name})
    assert ours.user_attrs == optunas.user_attrs
    optunas.set_user_attr("elapsed_s", 2.0)
    optunas.set_user_attr(f"{LATENCY}c/1", {"ms": "c"})
    read: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        seen = SimpleNamespace(loads=lambda text: read.append(text) or json.loads(text))
        patch.setattr("paretopress.search.database_storage.json", seen)
        assert ours._storage.get_study_user_attrs(ours._study_id) == optunas.user_attrs
    assert sorted(read) == ["2.0", '{"ms": "c"}']


def test_a_latency_is_not_lost_when_it_was_numbered_before_those_that_were_read(ours: optuna.Study, optunas: optuna.Study) -> None:
    for name in ("gap", f"{LATENCY}a/1"):
        optunas.set_user_attr(name, {"ms": name})
    assert set(ours.user_attrs) == {"gap", f"{LATENCY}a/1"}
    late = "UPDATE study_user_attributes SET key = 'latency/b/1' WHERE key = 'gap'"  # as one whose transaction ended later
    with optunas._storage._backend.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(sqlalchemy.text(late))
    assert ours.user_attrs == optunas.user_attrs
    assert set(ours.user_attrs) == {f"{LATENCY}a/1", f"{LATENCY}b/1"}
