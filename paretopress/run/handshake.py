"""Handshake of a shared run: what it publishes for its workers, and what a worker checks before it joins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from paretopress.config import RunConfig
from paretopress.errors import ForeignDataError, RunFolderError
from paretopress.run.artifacts import RunArtifacts
from paretopress.run.lookup import store_config
from paretopress.system.atomic_files import write_json
from paretopress.system.run_folder import RunFolder, create_run_folder

_PUBLISHED, _IDENTITY = "run/", "identity"
_FILES = ("config.json", "state.json", "tables.json", "graph.json")
_BINARIES = ("baseline.onnx", "samples.npz", "baseline_scores.npy")


def publish(study: optuna.Study, folder: RunFolder, artifacts: RunArtifacts, ours: Mapping[str, Any]) -> None:
    """Make what was found before the first trial known to workers on other hosts."""
    for name in _BINARIES:
        artifacts.push(name, folder.root / name)
    for name in _FILES:
        value = folder.read(folder.root / name)
        if name == folder.config.name:  # workers name the storage themselves, and nobody else's trust counts
            value |= {"trust": False, "workers": value["workers"] | {"storage": None}}
        study.set_user_attr(_PUBLISHED + name, value)
    study.set_user_attr(_PUBLISHED + _IDENTITY, dict(ours))  # the last: a run that has it is ready for workers


def adopt_run(study: optuna.Study, artifacts: RunArtifacts, root: Path, config: RunConfig) -> RunFolder:
    """Return a new run folder of this host with what a run published, and this host's `config`; see `published_config`."""
    attributes = study.user_attrs
    folder = create_run_folder(root)
    for name in _FILES:
        if name != folder.config.name:
            write_json(folder.root / name, attributes.get(_PUBLISHED + name))
    store_config(folder, config)
    for name in _BINARIES:
        artifacts.pull(name, folder.root / name)
    return folder


def published_config(study: optuna.Study) -> dict[str, Any]:
    """Return the configuration of a shared run; raises RunFolderError if it has published none yet."""
    attributes = study.user_attrs
    if _PUBLISHED + _IDENTITY not in attributes:
        raise RunFolderError("a run must be set up before workers join it, but it is not yet", "Try again in a minute.")
    config = attributes.get(_PUBLISHED + "config.json")
    if not isinstance(config, dict):
        raise ForeignDataError(f"a study must publish a configuration, but got {type(config).__name__}")
    return config


def published_identity(study: optuna.Study) -> dict[str, Any]:
    """Return what a shared run rests on, which a worker must have as well; see `published_config`."""
    identity = study.user_attrs[_PUBLISHED + _IDENTITY]
    if not isinstance(identity, dict):
        raise ForeignDataError(f"a study must publish what its workers must be, but got {type(identity).__name__}")
    return identity
