"""Optuna's relational storage, made fast for many trials in flight with many parameters each.

Measured with 64 workers and 60 parameters on PostgreSQL: most of a worker's own work went into reading all trials in flight anew, and into
a transaction for each parameter. What is overridden is not of Optuna's public interface (5.0.0); the tests hold it to Optuna's own storage.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage

# the last two load at their first use: SQLAlchemy is half a second that other runs need not wait
from optuna.storages._rdb.storage import _create_scoped_session, models, sqlalchemy  # type: ignore[attr-defined]
from optuna.trial import FrozenTrial, TrialState

from paretopress.search.storage.buffered import BufferedWrites
from paretopress.search.storage.records import LATENCY, WORKER

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

# a statement names so many trials at most
_AT_A_TIME = 1_000


# one object for all trials: a million of them keep the garbage collector busy
distribution_of = cache(json_to_distribution)


class DatabaseStorage(BufferedWrites[dict[str, Any]], RDBStorage):
    """Writes what is known of a trial together, and reads a trial in flight once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_flight: dict[int, FrozenTrial] = {}  # as they were read
        self._repeated: dict[int, tuple[int, dict[str, Any]]] = {}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's."""
        self.write(trial_id)
        with _create_scoped_session(self.scoped_session) as session:
            found = self._frozen(session, [trial_id])
        if not found:
            raise KeyError(f"no trial is {trial_id}")
        return found[0]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As Optuna's; repeated latencies, which are written once and may be thousands, are read once."""
        last, known = self._repeated.get(study_id, (0, {}))
        attribute: Any = models.StudyUserAttributeModel
        number, ours, repeated = attribute.study_user_attribute_id, attribute.study_id == study_id, attribute.key.startswith(LATENCY)
        with _create_scoped_session(self.scoped_session) as session:
            rows = session.execute(
                sqlalchemy.select(number, attribute.key, attribute.value_json).where(ours, ~repeated | (number > last))
            ).all()
            before = session.scalar(sqlalchemy.select(sqlalchemy.func.count()).where(ours, repeated, number <= last))
        if before != len(known):  # one that got its number earlier was written later than those that were read
            self._repeated.pop(study_id, None)
            return self.get_study_user_attrs(study_id)
        found = {key: json.loads(text) for _, key, text in rows}
        new = {row.key: found[row.key] for row in rows if row.key.startswith(LATENCY)}
        if new:
            self._repeated[study_id] = max(row[0] for row in rows if row.key in new), {**known, **new}
        return found | known or super().get_study_user_attrs(study_id)

    def _write(self, trial_id: int, params: list[dict[str, Any]], attributes: dict[str, Any]) -> None:
        with _create_scoped_session(self.scoped_session, True) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session)
            self.check_trial_is_updatable(trial_id, trial.state)
            if params:
                session.execute(sqlalchemy.insert(models.TrialParamModel), params)
            for key, value in attributes.items():
                self._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        self._asked.add(trial_id)
        if previous_distribution is None:  # the first of this process: Optuna looks for one that another wrote
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, None)
            return
        check_distribution_compatibility(previous_distribution, distribution)
        row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
        self._keep_param(trial_id, row | {"distribution_json": distribution_to_json(distribution)})

    def _get_trials(self, study_id: int, states: Any, included_trial_ids: set[int], trial_id_greater_than: int) -> list[FrozenTrial]:
        trial = models.TrialModel
        with _create_scoped_session(self.scoped_session) as session:
            asked = trial.study_id == study_id
            if states is not None:
                asked &= trial.state.in_(states)
            if trial_id_greater_than >= 0:
                asked &= trial.trial_id.in_(included_trial_ids) | (trial.trial_id > trial_id_greater_than)
            found = session.execute(sqlalchemy.select(trial.trial_id, trial.state).where(asked)).all()
            if not found:
                models.StudyModel.find_or_raise_by_id(study_id, session)
            changed = sorted(number for number, state in found if state is not TrialState.RUNNING or number not in self._in_flight)
            # the others are given all the same: they may have been read for another Study on this storage, which has a cache of its own
            known = [self._in_flight[number] for number in sorted({number for number, _ in found}.difference(changed))]
            parts = [changed[first : first + _AT_A_TIME] for first in range(0, len(changed), _AT_A_TIME)]
            trials = [trial for numbers in parts for trial in self._frozen(session, numbers)]
        for t in trials:
            if t.state is TrialState.RUNNING and WORKER in t.user_attrs:
                self._in_flight[t._trial_id] = t
            else:
                self._in_flight.pop(t._trial_id, None)
        return [*known, *trials]

    def _frozen(self, session: Session, numbers: Sequence[int]) -> list[FrozenTrial]:
        """Return trials by rows: to have an object of SQLAlchemy for each row takes ten times as long."""

        def of_trial(model: Any, *columns: Any) -> dict[int, list[Any]]:
            found: dict[int, list[Any]] = defaultdict(list)
            query = sqlalchemy.select(model.trial_id, *columns).where(model.trial_id.in_(numbers))
            for number, *row in session.execute(query.order_by(sqlalchemy.inspect(model).primary_key[0])):
                found[number].append(row)
            return found

        model, param, value, step = models.TrialModel, models.TrialParamModel, models.TrialValueModel, models.TrialIntermediateValueModel
        rows: Sequence[Any] = session.scalars(sqlalchemy.select(model).where(model.trial_id.in_(numbers)).order_by(model.trial_id)).all()
        # attributes before parameters: a trial that names its worker has them all
        attributes = [
            of_trial(kind, kind.key, kind.value_json) for kind in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel)
        ]
        values = of_trial(value, value.objective, value.value, value.value_type)
        steps = of_trial(step, step.step, step.intermediate_value, step.intermediate_value_type)
        known = {number: trial for number in numbers if (trial := self._in_flight.get(number))}  # parameters do not change
        numbers = [number for number in numbers if number not in known]
        read = of_trial(param, param.param_name, param.param_value, param.distribution_json) if numbers else {}
        trials = []
        for row in rows:
            number = row.trial_id
            if number in known:
                params, distributions = known[number].params, known[number].distributions
            else:
                distributions = {name: distribution_of(text) for name, _, text in read[number]}
                params = {name: distributions[name].to_external_repr(v) for name, v, _ in read[number]}
            user_attrs, system_attrs = ({key: json.loads(text) for key, text in found[number]} for found in attributes)
            trials.append(
                FrozenTrial(
                    number=row.number,
                    state=row.state,
                    value=None,
                    values=[value.stored_repr_to_value(v, kind) for _, v, kind in sorted(values[number], key=itemgetter(0))] or None,
                    datetime_start=row.datetime_start,
                    datetime_complete=row.datetime_complete,
                    params=dict(params),
                    distributions=dict(distributions),
                    user_attrs=user_attrs,
                    system_attrs=system_attrs,
                    intermediate_values={at: step.stored_repr_to_intermediate_value(v, kind) for at, v, kind in steps[number]},
                    trial_id=number,
                )
            )
        return trials
