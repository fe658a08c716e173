"""Open the study of a run: in its journal, or in a storage that many hosts reach."""

from __future__ import annotations

from pathlib import Path

import optuna

from paretopress.errors import RunFolderError
from paretopress.search.storage.places import StudyPlace, open_storage

STUDY_NAME = "paretopress"


def open_study(where: Path | StudyPlace) -> optuna.Study:
    """Return the study of a place for reading; raises RunFolderError if there is none."""
    if isinstance(where, Path) and not where.is_file():
        raise RunFolderError(f"a run must have a journal, but {where} is missing", "Was the search started, and is this its folder?")
    try:
        return optuna.load_study(study_name=study_name(where), storage=open_storage(where))
    except KeyError as error:
        raise RunFolderError(f"a storage must hold the study that is named, but has none at {where}") from error


def study_name(where: Path | StudyPlace) -> str:
    """Return the name of a place's study."""
    return where.name if isinstance(where, StudyPlace) else STUDY_NAME
