"""Places of studies: a journal file of one host, or a storage that workers on many hosts reach."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Self

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from paretopress.errors import ConfigError, RunFolderError
from paretopress.search.limits import GRACE_S
from paretopress.search.storage.journal_lock import JournalLock
from paretopress.system.secret_masking import MASK, masked


@dataclass(frozen=True, slots=True)
class StudyPlace:
    """A study in a storage: `url` is one of SQLAlchemy's, or grpc://HOST:PORT of Optuna's proxy; `name` is the study's.

    `grace_s` is how long a worker may be silent before its trial is another's.
    """

    url: str = field(repr=False)
    name: str
    grace_s: int = GRACE_S

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place of URL#NAME; raises ConfigError for anything else.

        A masked password, as it is printed, is left out: the driver then looks for it in ~/.pgpass and PGPASSWORD.
        """
        url, _, name = text.rpartition("#")
        if "://" not in url or not name:
            raise ConfigError(f"a shared run is named URL#NAME, but got {masked(text)!r}", "`paretopress search --storage URL` prints it.")
        return cls(url.replace(f":{MASK}@", "@", 1), name)

    def __str__(self) -> str:
        """Return URL#NAME without passwords; a storage without a study has no name."""
        return f"{masked(self.url)}#{self.name}".removesuffix("#")


def open_storage(where: Path | StudyPlace) -> BaseStorage:
    """Return the storage of a place.

    Raises: ConfigError: it is out of reach, its driver is not installed, or it is SQLite. RunFolderError: the journal is damaged.
    """
    if isinstance(where, Path):
        return _journal(where)
    storage: BaseStorage = _shared_storage().open_shared(where)
    return storage


def serve_proxy(url: str, host: str, port: int, on_ready: Callable[[str], object]) -> None:
    """Serve the database at `url` over gRPC; see `storage.shared.serve_proxy`."""
    _shared_storage().serve_proxy(url, host, port, on_ready)


def _shared_storage() -> ModuleType:
    """Return the module of shared storages: it alone needs what is not of Optuna's public interface, and is loaded for a shared run."""
    try:
        return importlib.import_module("paretopress.search.storage.shared")
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"a shared run needs the storages of Optuna 5, but got {optuna.__version__}: {error}", "pip install 'optuna>=5,<6'."
        ) from error


def _journal(journal: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"a journal must hold one JSON record a line, but got {error} at {journal}",
            "Remove the damaged line; the trials around it stay.",
        ) from error
