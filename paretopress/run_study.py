"""What a run's folder leads to: its configuration, where its study is kept, and its trials."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial

from paretopress.config import RunConfig, parse_config
from paretopress.errors import RunFolderError
from paretopress.run_folder import RunFolder
from paretopress.search.journal import open_study
from paretopress.search.places import StudyPlace
from paretopress.search.records import COPY_OF


def stored_config(folder: RunFolder) -> RunConfig:
    """Return the configuration of a run; raises ConfigError if its file is no valid one."""
    return parse_config(folder.read(folder.config), str(folder.config))


def study_place(folder: RunFolder, config: RunConfig | None = None) -> Path | StudyPlace:
    """Return the journal of a run, or the place in the storage that its workers share; `config` is read where it is not given."""
    workers = (config or stored_config(folder)).workers
    if workers.storage is None or workers.study is None:
        return folder.journal
    return StudyPlace(workers.storage, workers.study, workers.grace_s)


def find_trial(folder: RunFolder, number: int) -> FrozenTrial:
    """Return a trial of a run; of a copy, the trial that was evaluated. Raises RunFolderError if there is none of that number."""
    trials = {trial.number: trial for trial in open_study(study_place(folder)).get_trials(deepcopy=False)}
    if number not in trials:
        known = f"0 to {max(trials)}" if trials else "none yet"
        raise RunFolderError(f"a trial of the run must be named ({known}), but got trial={number} at {folder.root}")
    return trials[trials[number].user_attrs.get(COPY_OF, number)]
