"""Create or continue the study of a run, with its sampler."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning

from paretopress.search.sampler_names import OURS
from paretopress.search.samplers.predictor import PriorKnowledge
from paretopress.search.samplers.registry import make_sampler
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.search.storage.studies import study_name
from paretopress.spaces.space import SearchSpace


def create_study(
    where: Path | StudyPlace, sampler_name: str, space: SearchSpace, seed: int, known: PriorKnowledge | None = None
) -> optuna.Study:
    """Return the study of a place, new or as it was left.

    Objectives: accuracy (maximised), MACs and latency (minimised). The samplers of Optuna start a resumed study with another seed, so
    that they do not propose the first plans again.
    """
    storage, name = open_storage(where), study_name(where)
    done = 0
    if name in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        done = len(optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # metric names and multivariate TPE, "experimental" since 2023 and 2020
        sampler = make_sampler(sampler_name, space, seed if sampler_name in OURS else seed + 1_000 * done, known)
        study = optuna.create_study(
            storage=storage, study_name=name, directions=["maximize", "minimize", "minimize"], sampler=sampler, load_if_exists=True
        )
        study.set_metric_names(["val_accuracy", "macs", "latency_ms"])
    return study
