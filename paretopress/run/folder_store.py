"""An artifact store in a folder that several hosts mount, and that others may write to."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from paretopress.core.confined_path import flat_name


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Implements Optuna's `ArtifactStore`: a file an artifact, whole or absent, and no link is followed, to read or to write."""

    folder: Path

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return an artifact, opened for reading; raises ArtifactNotFound."""
        path = self.folder / flat_name(artifact_id)
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        except FileNotFoundError as error:
            raise ArtifactNotFound("not found") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep an artifact under a name, in the place of one that is there."""
        path = self.folder / flat_name(artifact_id)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                shutil.copyfileobj(content_body, file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; raises ArtifactNotFound."""
        try:
            (self.folder / flat_name(artifact_id)).unlink()
        except FileNotFoundError as error:
            raise ArtifactNotFound("not found") from error
