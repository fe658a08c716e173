"""Look up the configuration, the study and the trials of a run from its folder."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.trial import FrozenTrial

from paretopress.config import RunConfig, confirmed, parse_config
from paretopress.errors import ConfigError, RunFolderError
from paretopress.run.state import RunState
from paretopress.search.storage.places import StudyPlace
from paretopress.search.storage.records import COPY_OF
from paretopress.search.storage.studies import open_study
from paretopress.system.atomic_files import write_json
from paretopress.system.elapsed_time import recorded_elapsed_s
from paretopress.system.run_folder import RunFolder
from paretopress.system.secret_masking import MASK, masked


def stored_config(folder: RunFolder) -> RunConfig:
    """Return the configuration of a run for reading: it trusts nothing. Raises ConfigError: its file is no valid one."""
    return _stored(folder).model_copy(update={"trust": False})


def confirmed_config(folder: RunFolder, *, trust: bool) -> RunConfig:
    """Return the configuration of a run whose model and data are to be loaded, with `trust` as whoever runs it says.

    Raises: ConfigError: its file is no valid one. TrustError: the run was started with --trust, and `trust` was not given.
    """
    return confirmed(_stored(folder), trust=trust, source=str(folder.config))


def store_config(folder: RunFolder, config: RunConfig) -> None:
    """Write the configuration of a run. A password in the storage's URL goes to a file that its owner alone can read."""
    value, url = config.to_json(), config.workers.storage
    if url is not None and masked(url) != url:
        descriptor = os.open(folder.storage_url, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(url)
        value["workers"]["storage"] = masked(url)
    write_json(folder.config, value)


def _stored(folder: RunFolder) -> RunConfig:
    config = parse_config(folder.read(folder.config), str(folder.config))
    if config.workers.storage is None or not folder.storage_url.is_file():
        return config
    try:
        url = folder.storage_url.read_text(encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"the URL of the run's storage must be readable, but got {error.strerror} at {folder.storage_url}") from error
    return config.model_copy(update={"workers": config.workers.model_copy(update={"storage": url})})


def study_place(folder: RunFolder, config: RunConfig | None = None) -> Path | StudyPlace:
    """Return the journal of a run, or the place in the storage that its workers share; `config` is read where it is not given."""
    workers = (config or stored_config(folder)).workers
    if workers.storage is None or workers.study is None:
        return folder.journal
    if f":{MASK}@" in workers.storage or f"={MASK}" in workers.storage:
        raise RunFolderError(
            f"the password of a run's storage lies in {folder.storage_url.name}, but {folder.root} has no such file",
            f"It is not part of what is shared: write the whole URL of {workers.storage} to that file, readable by you alone.",
        )
    return StudyPlace(workers.storage, workers.study, workers.grace_s)


def find_trial(folder: RunFolder, number: int) -> FrozenTrial:
    """Return a trial of a run; of a copy, the trial that was evaluated. Raises RunFolderError if there is none of that number."""
    trials = {trial.number: trial for trial in open_study(study_place(folder)).get_trials(deepcopy=False)}
    if number not in trials:
        known = f"0 to {max(trials)}" if trials else "none yet"
        raise RunFolderError(f"a trial of the run must be named ({known}), but got trial={number} at {folder.root}")
    return trials[trials[number].user_attrs.get(COPY_OF, number)]


def with_more_time(config: RunConfig, folder: RunFolder, more_s: float) -> RunConfig:
    """Return the configuration of a run that is to go on for so many seconds; raises ConfigError if it is shared or the time no time."""
    if not more_s > 0.0:
        raise ConfigError(f"a run goes on for a time, but got {more_s:g} s")
    if config.workers.storage is not None:
        raise ConfigError("a run of one host can be given more time, but this one is shared by workers", "Start a new run.")
    setup_s = RunState.from_json(folder.read(folder.state)).setup_s if folder.state.is_file() else 0.0
    worked_s = max(recorded_elapsed_s(folder.worked), setup_s)
    time = config.time.model_copy(update={"minutes": (worked_s + more_s) / 60.0, "hours": None, "trials": None})
    return config.model_copy(update={"time": time})
