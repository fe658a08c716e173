"""One database file in two storages: ours, and Optuna's own beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from written_trials import opened

from paretopress.search.storage.rdb import DatabaseStorage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def direct(url: str) -> Iterator[DatabaseStorage]:
    storage = DatabaseStorage(url)
    yield storage
    storage.engine.dispose()


@pytest.fixture
def optunas(url: str, ours: optuna.Study) -> Iterator[optuna.Study]:
    """The study `ours` of a test in Optuna's own storage, as another process has it."""
    storage = RDBStorage(url)
    yield opened(storage)
    storage.engine.dispose()
