"""The storages of a shared run: a database, or Optuna's proxy before one.

This module and those that it imports use what is not of Optuna's public interface; a run on a journal does without them, see `places`.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from paretopress.errors import ConfigError
from paretopress.search.limits import WORDS
from paretopress.search.storage.grpc_proxy import ProxyStorage, proxy_server
from paretopress.search.storage.places import StudyPlace
from paretopress.search.storage.rdb import DatabaseStorage
from paretopress.search.storage.records import retry_once
from paretopress.system.secret_masking import masked


def open_shared(where: StudyPlace) -> BaseStorage:
    """Return the storage of a place; raises ConfigError where it is out of reach, its driver is not installed, or it is SQLite."""
    parts = urlsplit(where.url)
    if parts.scheme == "grpc":
        return _proxy(parts.hostname or "localhost", parts.port or 13_000, where)
    return _database(where)


def _on_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    retry_once(study, trial)


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
        greeted = storage.is_compatible()
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
