"""Where the study of a run is kept."""

from __future__ import annotations

from pathlib import Path

from paretopress.config import RunConfig, parse_config
from paretopress.run_folder import RunFolder
from paretopress.search.places import StudyPlace


def study_place(folder: RunFolder, config: RunConfig | None = None) -> Path | StudyPlace:
    """Return the journal of a run, or the place in the storage that its workers share; `config` is read where it is not given."""
    known = config or parse_config(folder.read(folder.config), str(folder.config))
    storage, name = known.workers.storage, known.workers.study
    return folder.journal if storage is None or name is None else StudyPlace(storage, name, known.workers.grace_s)
