"""Trials in flight and ended in any storage, as a worker writes them."""

from __future__ import annotations

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage

from paretopress.search.storage.records import WORKER

DISTRIBUTIONS = {
    "kept": IntDistribution(0, 64, step=8),
    "alpha": FloatDistribution(1e-3, 1.0, log=True),
    "bits": CategoricalDistribution((32, 8)),
    "only": CategoricalDistribution(("one",)),
}


def opened(storage: BaseStorage) -> optuna.Study:
    return optuna.create_study(
        storage=storage, study_name="s", directions=["maximize", "minimize"], load_if_exists=True, sampler=optuna.samplers.RandomSampler(0)
    )


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
