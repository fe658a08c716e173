"""Where studies are kept: in a journal file of one host, or in a storage that workers on many hosts reach."""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from paretopress.errors import ConfigError, RunFolderError
from paretopress.masking import MASK, masked
from paretopress.search.database_storage import DatabaseStorage
from paretopress.search.journal_lock import JournalLock
from paretopress.search.proxy import ProxyStorage, proxy_server
from paretopress.search.records import retry_once

# After so long without a word what a worker is at is given to another; it says four times as often that it lives.
GRACE_S, WORDS = 90, 4


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


def _on_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    retry_once(study, trial)


def open_storage(where: Path | StudyPlace) -> BaseStorage:
    """Return the storage of a place.

    Raises: ConfigError: it is out of reach, its driver is not installed, or it is SQLite. RunFolderError: the journal is damaged.
    """
    if isinstance(where, Path):
        return _journal(where)
    parts = urlsplit(where.url)
    if parts.scheme == "grpc":
        return _proxy(parts.hostname or "localhost", parts.port or 13_000, where)
    return _database(where)


def _database(where: StudyPlace) -> DatabaseStorage:
    if urlsplit(where.url).scheme.startswith("sqlite"):
        # it has no SELECT ... FOR UPDATE, with which Optuna keeps a waiting trial from being taken twice
        raise ConfigError(
            f"a shared run needs a database that locks rows, but got SQLite at {where}",
            "Use PostgreSQL; on one host, `--workers N` needs no storage.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat has been "experimental" since 2021
            return DatabaseStorage(
                where.url,
                engine_kwargs={"pool_pre_ping": True},  # a database that was restarted meanwhile is reached again
                heartbeat_interval=max(where.grace_s // WORDS, 1),
                grace_period=where.grace_s,
                heartbeat_stale_trial_callback=_on_stale,
            )
    except ImportError as error:
        raise ConfigError(f"a storage needs its driver, but got: {error} at {where}", "pip install 'paretopress[postgres]'.") from error
    except Exception as error:  # of SQLAlchemy, of the driver, or of Optuna for another schema: they share no base class
        raise _out_of_reach(where, error) from error


def serve_proxy(url: str, host: str, port: int, on_ready: Callable[[str], object]) -> None:
    """Stand before the database at `url`: workers reach it by grpc://HOST:PORT, and it has this process's connections alone.

    Returns when the process is told to end. It neither encrypts nor asks who is there. `on_ready` is told that URL, once the database and
    the port are known to be in reach.

    Raises: ConfigError: as `open_storage`, or nothing can listen at the port.
    """
    storage = _database(StudyPlace(url, ""))
    try:
        socket.create_server((host, port)).close()  # gRPC would share the port with another proxy, and divide the workers between them
    except OSError as error:
        raise ConfigError(f"the port must be free and the host this machine's, but got {host}:{port}", str(error)) from error
    try:
        server = proxy_server(storage, host, port)
    except ImportError as error:
        raise _no_grpc(error, f"{host}:{port}") from error
    server.start()
    on_ready(f"grpc://{host}:{port}")
    server.wait_for_termination()


def _no_grpc(error: ImportError, where: object) -> ConfigError:
    return ConfigError(f"a storage needs its driver, but got: {error} at {where}", "pip install 'paretopress[grpc]'.")


def _proxy(host: str, port: int, where: StudyPlace) -> BaseStorage:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the proxy has been "experimental" since 2024
            storage = ProxyStorage(host, port)
        storage.wait_server_ready(timeout=10.0)
        greeted = storage.greet()
    except ImportError as error:
        raise _no_grpc(error, where) from error
    except Exception as error:
        raise _out_of_reach(where, error) from error
    if not greeted:
        raise ConfigError(f"a proxy must be one of this version's, but got another at {where}", "Start it with `paretopress proxy URL`.")
    return storage


def _out_of_reach(where: StudyPlace, error: Exception) -> ConfigError:
    said = str(error.__cause__ if isinstance(error, StorageInternalError) else error).strip().splitlines()
    reason = masked(said[0], where.url) if said else type(error).__name__
    return ConfigError(f"the storage must be in reach, but got: {reason} at {where}")


def _journal(journal: Path) -> JournalStorage:
    try:
        return JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"a journal must hold one JSON record a line, but got {error} at {journal}",
            "Remove the damaged line; the trials around it stay.",
        ) from error
