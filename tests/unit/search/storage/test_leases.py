from __future__ import annotations

import threading
import time

import optuna
import pytest

from paretopress.errors import ConfigError
from paretopress.search.storage.leases import Leases, renewed
from paretopress.search.storage.places import StudyPlace


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study()


def leases(study: optuna.Study, worker: str, now: list[float]) -> Leases:
    return Leases(study, worker, 90.0, lambda: now[0])


def test_take_is_the_first_ones_until_it_is_released(study: optuna.Study) -> None:
    now = [100.0]
    one, two = leases(study, "one", now), leases(study, "two", now)
    assert one.take(7)
    now[0] = 101.0
    assert not two.take(7)
    assert two.take(8)
    assert (one.others(), two.others()) == ({8}, {7})
    one.release(7)
    assert two.others() == set()
    assert two.take(7)


def test_take_is_the_first_ones_when_two_claim_in_the_same_moment(study: optuna.Study) -> None:
    now = [100.0]
    one, two = leases(study, "a", now), leases(study, "b", now)
    assert one.take(7)
    assert not two.take(7)


def test_take_is_the_first_ones_when_both_have_one_name(study: optuna.Study) -> None:
    now = [100.0]
    one, two = leases(study, "worker-1", now), leases(study, "worker-1", now)
    assert one.worker != two.worker
    assert one.take(7)
    assert not two.take(7)
    one.renew()
    assert two.at_work() == {one.worker}
    two.leave()
    assert not two.silent()(one.worker, 0.0)


def test_claims_of_the_dead_lapse_and_those_of_the_living_do_not(study: optuna.Study) -> None:
    now = [0.0]
    dead, living, third = (leases(study, name, now) for name in ("dead", "living", "third"))
    assert dead.take(1)
    assert living.take(2)
    now[0] = 80.0
    living.renew()
    now[0] = 100.0
    assert third.others() == {2}
    assert third.take(1)


def test_at_work_are_those_that_live_and_have_not_left(study: optuna.Study) -> None:
    now = [0.0]
    dead, left, living = (leases(study, name, now) for name in ("dead", "left", "living"))
    for each in (dead, left, living):
        each.renew()
    assert living.at_work() == {dead.worker, left.worker}
    left.leave()
    assert living.at_work() == {dead.worker}
    now[0] = 100.0
    living.renew()
    assert (living.at_work(), left.at_work()) == (set(), {living.worker})


def test_silent_is_who_left_when_its_trial_was_there_for_the_grace(study: optuna.Study) -> None:
    now = [100.0]
    left, other = leases(study, "left", now), leases(study, "other", now)
    left.renew()
    left.leave()
    assert not other.silent()(left.worker, 3)
    now[0] += 89.0
    assert not other.silent()(left.worker, 3)
    now[0] += 1.0
    assert other.silent()(left.worker, 3)
    assert not other.silent()(left.worker, 4)  # asked for meanwhile


def test_renewed_needs_no_claims_when_nobody_shares() -> None:
    before = threading.active_count()
    with renewed(None):
        assert threading.active_count() == before


def test_renewed_keeps_a_claim_alive_past_its_grace(study: optuna.Study) -> None:
    held, other = Leases(study, "one", 0.2), Leases(study, "two", 0.2)
    assert held.take(7)
    with renewed(held):
        time.sleep(0.5)
        assert other.others() == {7}
    time.sleep(0.5)
    assert other.others() == set()


@pytest.mark.parametrize("text", ["postgresql://host/db", "#name", "journal.log#name", ""])
def test_parse_says_what_a_shared_run_is_called_when_it_is_something_else(text: str) -> None:
    with pytest.raises(ConfigError, match="URL#NAME"):
        StudyPlace.parse(text)


def test_place_hides_its_password_when_shown() -> None:
    place = StudyPlace.parse("postgresql+psycopg://me:secret@host:5432/db#night")
    assert (place.url, place.name) == ("postgresql+psycopg://me:secret@host:5432/db", "night")
    assert str(place) == "postgresql+psycopg://me:***@host:5432/db#night"
