"""What a run's journal holds: the study, its candidates by their trial and by their full recovery, and repeated latencies."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from paretopress.errors import RunFolderError
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.search.candidates import Candidate
from paretopress.search.occasions import drift, pooled
from paretopress.search.predictor import Known
from paretopress.search.samplers import OURS, make_sampler
from paretopress.spaces.space import SearchSpace

STUDY_NAME = "paretopress"
FINALS, OCCASIONS = "finals", "latencies/"
ACCURACIES, VOLUME, OUTRACED = "accuracies", "hypervolume", "outraced"
Pooling = Callable[[Outcome], Outcome]


@dataclass(frozen=True, slots=True)
class Counts:
    """How the trials ended: recovered, over a bound before any training, out of the race before any training, or failed."""

    completed: int
    rejected_early: int
    failed: int
    outraced: int = 0

    @property
    def all(self) -> int:
        """The number of trials."""
        return self.completed + self.rejected_early + self.outraced + self.failed


@dataclass(frozen=True, slots=True)
class Climb:
    """How far one plan went: its accuracy at each rung that it saw, and the latency that was measured first."""

    accuracies: Mapping[Rung, float]
    latency_ms: float


def create_study(journal: Path, sampler_name: str, space: SearchSpace, seed: int, known: Known | None = None) -> optuna.Study:
    """Return the study kept in a journal file, new or as it was left.

    Objectives: accuracy (maximised), MACs and latency (minimised). The samplers of Optuna start a resumed study with another seed, so
    that they do not propose the first plans again.
    """
    drop_torn_record(journal)
    storage = _storage(journal)
    done = 0
    if STUDY_NAME in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        done = len(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # metric names and multivariate TPE, "experimental" since 2023 and 2020
        sampler = make_sampler(sampler_name, space, seed if sampler_name in OURS else seed + 1_000 * done, known)
        study = optuna.create_study(
            storage=storage, study_name=STUDY_NAME, directions=["maximize", "minimize", "minimize"], sampler=sampler, load_if_exists=True
        )
        study.set_metric_names(["val_accuracy", "macs", "latency_ms"])
    return study


def open_study(journal: Path) -> optuna.Study:
    """Return the study of a journal for reading; raises RunFolderError if there is none."""
    if not journal.is_file():
        raise RunFolderError(f"a run must have a journal, but {journal} is missing", "Was the search started, and is this its folder?")
    return optuna.load_study(study_name=STUDY_NAME, storage=_storage(journal))


def drop_torn_record(journal: Path) -> None:
    """Cut off what follows the last whole line: a full disk or a power loss ended its writing, and what is added would be unreadable."""
    if not journal.is_file():
        return
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _storage(journal: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(journal)))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"a journal must hold one JSON record a line, but got {error} at {journal}",
            "Remove the damaged line; the trials around it stay.",
        ) from error


def trial_candidates(study: optuna.Study) -> list[Candidate]:
    """Return all evaluated candidates by the figures of their trial, one for each plan, latencies pooled over all occasions."""
    return _trial_candidates(study, _pooling(study))


def stored_finals(study: optuna.Study) -> dict[int, Outcome]:
    """Return trial number -> outcome of its full recovery, latencies pooled over all occasions."""
    return _finals(study, _pooling(study))


def stored_candidates(study: optuna.Study) -> list[Candidate]:
    """Return all evaluated candidates, one for each plan, those with a full recovery by its figures."""
    pooling = _pooling(study)
    finals = _finals(study, pooling)
    return [Candidate(c.number, c.plan, finals.get(c.number, c.outcome)) for c in _trial_candidates(study, pooling)]


def stored_latencies(study: optuna.Study) -> dict[str, list[Latency]]:
    """Return sha256 -> latencies of every file that was measured more than once, by occasion."""
    first = _first_latencies(study)
    return {
        sha256: [first[sha256], *(Latency.from_json(latency) for latency in value)]
        for name, value in study.user_attrs.items()
        if (sha256 := name.removeprefix(OCCASIONS)) in first and name.startswith(OCCASIONS)
    }


def store_latency(study: optuna.Study, outcome: Outcome, again: Latency) -> None:
    """Add an occasion to those of a candidate's file."""
    name = OCCASIONS + outcome.onnx_sha256
    study.set_user_attr(name, [*study.user_attrs.get(name, []), again.to_json()])


def failure_reasons(study: optuna.Study) -> list[str]:
    """Return the reasons of the failed trials, in order."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [t.user_attrs["error"] for t in failed if "error" in t.user_attrs]


def count_trials(study: optuna.Study) -> Counts:
    """Return how the finished trials of a study ended; trials that a dead process left are among the failed."""

    def number(state: TrialState) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(state,))

    complete = number(TrialState.COMPLETE)
    untrained = sum(bool(t.user_attrs.get("rejected_early", False)) for t in complete)
    outraced = sum(bool(t.user_attrs.get(OUTRACED, False)) for t in complete)
    return Counts(len(complete) - untrained, untrained - outraced, len(number(TrialState.FAIL)), outraced)


def climbs(study: optuna.Study) -> list[Climb]:
    """Return how far the plans that were evaluated went, in the order of their trials."""
    return [
        Climb({Rung(int(rung)): value for rung, value in t.user_attrs.get(ACCURACIES, {}).items()}, t.values[2])
        for t in _evaluated_trials(study)
    ]


def volumes(study: optuna.Study) -> list[float]:
    """Return the hypervolume of the front after each completed trial."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [float(t.user_attrs[VOLUME]) for t in done if VOLUME in t.user_attrs]


def _evaluated_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials whose plan was evaluated; a copy only repeats the figures, pooled by then, of the trial that it names."""
    return [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if "copy_of" not in t.user_attrs]


def _trial_candidates(study: optuna.Study, pooling: Pooling) -> list[Candidate]:
    return [
        Candidate(t.number, Plan.from_json(t.user_attrs["plan"]), pooling(Outcome.from_json(t.user_attrs["outcome"])))
        for t in _evaluated_trials(study)
    ]


def _finals(study: optuna.Study, pooling: Pooling) -> dict[int, Outcome]:
    return {int(number): pooling(Outcome.from_json(value)) for number, value in _final_values(study).items()}


def _final_values(study: optuna.Study) -> dict[str, Any]:
    return {number: value for number, value in study.user_attrs.get(FINALS, {}).items() if "error" not in value}


def _first_latencies(study: optuna.Study) -> dict[str, Latency]:
    """Return sha256 -> latency, as the evaluation measured it."""
    outcomes = [*(t.user_attrs["outcome"] for t in _evaluated_trials(study)), *_final_values(study).values()]
    return {outcome["onnx_sha256"]: Latency.from_json(outcome["latency"]) for outcome in outcomes}


def _pooling(study: optuna.Study) -> Pooling:
    """Return what replaces an outcome's latency by the one pooled over its occasions; a rejected one was measured once and is left."""
    repeated = stored_latencies(study)
    between = drift(repeated.values())

    def pooling(outcome: Outcome) -> Outcome:
        if outcome.rejected:
            return outcome
        return replace(outcome, latency=pooled(repeated.get(outcome.onnx_sha256) or [outcome.latency], between))

    return pooling
