"""What a study holds, at one moment and at the next."""

from __future__ import annotations

import optuna
from four_layers import BOUNDS, SPACE, made_up

from paretopress.core.outcome import Rung
from paretopress.core.plan import Plan
from paretopress.search.storage import records as keys
from paretopress.search.storage.records import Records

PLANS = [Plan(kept={name: 32}) for name in "abcd"]


def add(study: optuna.Study, plan: Plan) -> None:
    """Evaluate a plan past all records, as another process does."""
    trial = study.ask(fixed_distributions=SPACE.distributions())
    outcome = made_up(plan, Rung.SHORT, trial.number)
    trial.set_user_attr(keys.PLAN, plan.to_json())
    trial.set_user_attr(keys.OUTCOME, outcome.to_json())
    study.tell(trial, [outcome.val_accuracy, outcome.macs, outcome.latency.latency_ms])


def test_records_are_those_of_the_last_reading_until_they_are_refreshed() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    records = Records(study)
    add(study, PLANS[0])
    assert [c.plan for c in records.trial_candidates()] == PLANS[:1]
    add(study, PLANS[1])
    study.ask()
    assert [c.plan for c in records.trial_candidates()] == PLANS[:1]
    assert (records.counts().all, records.slots().open(), len(records.durations())) == (1, 0, 1)
    records.refresh()
    assert [c.plan for c in records.trial_candidates()] == PLANS[:2]
    assert (records.counts().all, records.slots().open(), len(records.durations())) == (2, 1, 2)


def test_what_is_added_through_the_records_is_there_at_once() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for plan in PLANS:
        add(study, plan)
    records = Records(study)
    before = records.trial_candidates()
    first = before[0].outcome
    records.add_latency(first, made_up(PLANS[0], Rung.SHORT, 0).latency)
    after = records.trial_candidates()
    assert [c.outcome.latency.occasions for c in after] == [2, 1, 1, 1]
    assert after[0].outcome.latency.ratio_ci[0] > first.latency.ratio_ci[0]  # seen twice, so known better
    assert BOUNDS.hypervolume(after) == BOUNDS.hypervolume(before)
    records.add_final(2, made_up(PLANS[2], Rung.FINAL, 2).to_json())
    assert [c.outcome.rung for c in records.candidates()] == [Rung.SHORT, Rung.SHORT, Rung.FINAL, Rung.SHORT]
    records.add_attribute("note", 1)
    assert Records(study).attributes["note"] == records.attributes["note"] == 1
    assert [c.outcome for c in Records(study).candidates()] == [c.outcome for c in records.candidates()]


def test_a_trial_that_was_told_of_is_there_at_once() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    records = Records(study)
    add(study, PLANS[0])
    trial = study.ask(fixed_distributions=SPACE.distributions())
    records.refresh()
    assert (records.counts().all, records.slots().open()) == (1, 1)
    trial.set_user_attr(keys.PLAN, PLANS[1].to_json())
    outcome = made_up(PLANS[1], Rung.SHORT, trial.number)
    trial.set_user_attr(keys.OUTCOME, outcome.to_json())
    records.add_ended(study.tell(trial, [outcome.val_accuracy, outcome.macs, outcome.latency.latency_ms]))
    assert (records.counts().all, records.slots().open()) == (2, 0)
    assert [c.plan for c in records.trial_candidates()] == PLANS[:2]
    before = records.trial_candidates()
    records.refresh()
    assert records.trial_candidates() == before


def test_figures_without_a_number_of_earlier_versions_are_passed_over() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for plan in PLANS[:2]:
        add(study, plan)
    records = Records(study)
    outcome = records.trial_candidates()[0].outcome
    for number, score in ((0, float("nan")), (1, 89.0)):
        records.add_final(number, made_up(PLANS[number], Rung.FINAL, 2 + number).to_json() | {"val_accuracy": score})
    records.add_attribute(f"latency/{outcome.onnx_sha256}/1", outcome.latency.to_json() | {"ratio": float("nan")})
    assert list(Records(study).finals()) == [1]
    assert [c.outcome.latency.occasions for c in Records(study).trial_candidates()] == [1, 1]
