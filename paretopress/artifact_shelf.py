"""Files that the workers of a shared run exchange: in a folder that all hosts mount, or in an S3-compatible bucket."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts._protocol import ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound

from paretopress.errors import ConfigError, RunError
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.plan_evaluator import STUDENT_FILE
from paretopress.run_folder import MODEL_FILE, PART, RunFolder


class Evaluator(Protocol):
    """What evaluates plans in a run folder of this host; see `Isolation`."""

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung."""
        ...

    def recover_in_part(self, plan: Plan, number: int, share: float) -> Outcome:
        """Return the outcome of a share of a full recovery."""
        ...

    def latency_again(self, outcome: Outcome) -> Latency:
        """Return the latency of a candidate's file, measured once more."""
        ...


class TimedEvaluator(Evaluator, Protocol):
    """One that is told how long it may take."""

    def keep_within(self, left_s: Callable[[], float]) -> None:
        """Take what returns the seconds until the run has to close."""
        ...


def open_store(spec: str) -> ArtifactStore:
    """Return the store that `spec` names: a folder, or s3://BUCKET (credentials as boto3 finds them, AWS_ENDPOINT_URL for others).

    Raises: ConfigError: the folder cannot be made, or boto3 is not installed.
    """
    if spec.startswith("s3://"):
        try:
            from optuna.artifacts import Boto3ArtifactStore

            return Boto3ArtifactStore(bucket_name=urlsplit(spec).netloc)
        except ImportError as error:
            raise ConfigError("an S3 store needs boto3, but it is not installed", "pip install 'paretopress[s3]'.") from error
    folder = Path(spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder of artifacts must be writable, but got {error.strerror} at {folder}") from error
    return FileSystemArtifactStore(folder)


@dataclass(frozen=True, slots=True)
class ArtifactShelf:
    """The files of one shared run; names start with the study's."""

    store: ArtifactStore
    study: str

    def push(self, name: str, path: Path) -> None:
        """Put a file on the shelf; raises RunError."""
        try:
            with path.open("rb") as file:
                self.store.write(self._id(name), file)
        except Exception as error:  # of the file system, or of boto3
            raise RunError(f"artifacts must be writable, but got {type(error).__name__}: {error} for {name}") from error

    def pull(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Write a file of the shelf to `path`, whole or not at all; raises RunError if it is missing or not the one with that hash."""
        part = path.with_name(f".{path.name}{PART}")
        try:
            with self.store.open_reader(self._id(name)) as source, part.open("wb") as file:
                shutil.copyfileobj(source, file)
            if sha256 is not None and hashlib.sha256(part.read_bytes()).hexdigest() != sha256:
                raise RunError(f"an artifact must be the file that was measured, but {name} has another hash")
            part.replace(path)
        except RunError:
            raise
        except ArtifactNotFound as error:
            raise RunError(f"an artifact must be there, but {name} is not") from error
        except Exception as error:
            raise RunError(f"artifacts must be readable, but got {type(error).__name__}: {error} for {name}") from error
        finally:
            part.unlink(missing_ok=True)

    def _id(self, name: str) -> str:
        return f"{self.study}-{name.replace('/', '-')}"


@dataclass(slots=True)
class SharedFiles:
    """An evaluator whose files other hosts can have: what it makes goes to the shelf, what another made comes from there."""

    evaluate: Evaluator
    shelf: ArtifactShelf
    folder: RunFolder

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung."""
        return self._made(number, rung, lambda: self.evaluate(plan, rung, number))

    def recover_in_part(self, plan: Plan, number: int, share: float) -> Outcome:
        """Return the outcome of a share of a full recovery."""
        return self._made(number, Rung.FINAL, lambda: self.evaluate.recover_in_part(plan, number, share))

    def latency_again(self, outcome: Outcome) -> Latency:
        """Return the latency of a candidate's file, measured once more; the file may be another host's."""
        self.fetch(outcome)
        return self.evaluate.latency_again(outcome)

    def fetch(self, outcome: Outcome) -> None:
        """Have the ONNX file of a candidate in this host's run folder."""
        path = self.folder.root / outcome.onnx_path
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.shelf.pull(outcome.onnx_path, path, outcome.onnx_sha256)

    def _made(self, number: int, rung: Rung, evaluate: Callable[[], Outcome]) -> Outcome:
        if rung is Rung.FINAL:
            self._fetch_student(number)
        outcome = evaluate()
        if outcome.onnx_path:
            place = (self.folder.root / outcome.onnx_path).parent
            for name in (MODEL_FILE, STUDENT_FILE):
                self.shelf.push(str((place / name).relative_to(self.folder.root)), place / name)
        return outcome

    def _fetch_student(self, number: int) -> None:
        """Have the weights that a full recovery starts from; where they are nowhere, it starts from the original ones."""
        path = self.folder.candidate(number, final=False) / STUDENT_FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.shelf.pull(str(path.relative_to(self.folder.root)), path)
            except RunError:
                path.parent.rmdir()
