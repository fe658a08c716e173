"""What the storage in a database does beyond what test_shared_storages.py holds it to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from written_trials import DISTRIBUTIONS, begun, ended, opened

from paretopress.search.storage.rdb import DatabaseStorage
from paretopress.search.storage.records import LATENCY, WORKER


@pytest.fixture
def ours(direct: DatabaseStorage) -> optuna.Study:
    """A study in our storage, in which a first trial is in flight: its parameters alone are compared with those in the storage."""
    study = opened(direct)
    begun(study)
    return study


def statements(study: optuna.Study) -> list[str]:
    """Return a list that every statement to the database is added to."""
    said: list[str] = []
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda _c, _u, text, *_: said.append(text))
    return said


def test_parameters_are_in_the_order_in_which_they_were_asked_for(ours: optuna.Study, optunas: optuna.Study) -> None:
    ended(ours, begun(ours))
    ended(optunas, begun(optunas))
    ours.enqueue_trial({"kept": 16})
    begun(ours)
    assert [list(trial.params) for trial in ours.get_trials()] == [list(trial.params) for trial in optunas.get_trials()]


def test_storage_reads_the_whole_study_when_it_is_new_to_it(url: str, ours: optuna.Study, optunas: optuna.Study) -> None:
    ended(ours, begun(ours))
    new = optuna.load_study(study_name="s", storage=DatabaseStorage(url))
    assert new.get_trials() == optunas.get_trials()


def test_parameters_are_written_at_once_when_the_trial_names_its_worker(ours: optuna.Study, optunas: optuna.Study) -> None:
    said = statements(ours)
    trial = ours.ask(fixed_distributions=DISTRIBUTIONS)
    assert optunas.get_trials()[trial.number].params == {}
    trial.set_user_attr(WORKER, "w")
    assert optunas.get_trials()[trial.number].params == trial.params
    assert sum("INSERT INTO trial_params" in text for text in said) == 1


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


def test_trial_in_flight_is_not_lost_when_the_storage_is_opened_twice(ours: optuna.Study, optunas: optuna.Study) -> None:
    others = begun(optunas)
    assert len(ours.get_trials()) == 2
    second = optuna.load_study(study_name="s", storage=ours._storage._backend)  # type: ignore[attr-defined]
    ended(second, begun(second))
    assert [t.number for t in second.get_trials()] == [0, 1, 2]
    ended(optunas, others)
    assert second.get_trials()[1].state is TrialState.COMPLETE


def test_a_distribution_that_differs_is_refused_as_optuna_does(ours: optuna.Study) -> None:
    with pytest.raises(ValueError, match="distribution"):
        ours.ask(fixed_distributions={"kept": FloatDistribution(0.0, 1.0)})


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
        patch.setattr("paretopress.search.storage.rdb.json", seen)
        assert ours._storage.get_study_user_attrs(ours._study_id) == optunas.user_attrs
    assert sorted(read) == ["2.0", '{"ms": "c"}']


def test_latency_is_not_lost_when_its_number_is_before_those_read(ours: optuna.Study, optunas: optuna.Study) -> None:
    for name in ("gap", f"{LATENCY}a/1"):
        optunas.set_user_attr(name, {"ms": name})
    assert set(ours.user_attrs) == {"gap", f"{LATENCY}a/1"}
    late = "UPDATE study_user_attributes SET key = 'latency/b/1' WHERE key = 'gap'"  # as one whose transaction ended later
    with optunas._storage._backend.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(sqlalchemy.text(late))
    assert ours.user_attrs == optunas.user_attrs
    assert set(ours.user_attrs) == {f"{LATENCY}a/1", f"{LATENCY}b/1"}
