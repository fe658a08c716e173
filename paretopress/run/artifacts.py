"""Files that the workers of a shared run exchange: in a folder that all hosts mount, or in an S3-compatible bucket."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from optuna.artifacts.exceptions import ArtifactNotFound

from paretopress.core.confined_path import flat_name
from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.deploy.bundle_run import holds_its_weights
from paretopress.errors import ConfigError, ForeignDataError, RunError
from paretopress.run.folder_store import FolderStore
from paretopress.system.run_folder import MODEL_FILE, PART, RunFolder
from paretopress.system.secret_masking import masked
from paretopress.trial.evaluator import STUDENT_FILE

# a store that is busy or was out of reach for a moment is asked again after so many seconds
_WAITS_S = (0.5, 2.0)
# no file of ours is larger: protobuf's own limit for an ONNX file is 2 GiB
_MOST_BYTES = 4 * 2**30
_PIECE_BYTES = 2**20
# Source: "Bucket naming rules" in the user guide of Amazon S3
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


class ArtifactStore(Protocol):
    """Stores files by name: the part of Optuna's artifact stores that is used here."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the content of a file; raises ArtifactNotFound."""
        ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep a file."""
        ...


class Evaluator(Protocol):
    """Evaluates plans in a run folder of this host; see `SubprocessEvaluator`."""

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
    """An evaluator with a time limit."""

    def keep_within(self, left_s: Callable[[], float]) -> None:
        """Set the function that returns the seconds until the run has to close."""
        ...


def open_store(spec: str) -> ArtifactStore:
    """Return the store that `spec` names: a folder, or s3://BUCKET (credentials as boto3 finds them, AWS_ENDPOINT_URL for others).

    Raises: ConfigError: the folder cannot be made, boto3 is not installed, or the spec holds more than a bucket's name.
    """
    if "://" in spec:
        if not spec.startswith("s3://") or not _BUCKET_NAME.fullmatch(spec.removeprefix("s3://")):
            raise ConfigError(
                f"a store must be a folder or s3://BUCKET, but got {masked(spec)}",
                "Keys belong where boto3 finds them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials.",
            )
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
    return FolderStore(folder)


@dataclass(frozen=True, slots=True)
class RunArtifacts:
    """The files of one shared run; names start with the study's. What fails is tried again after each of `waits_s`."""

    store: ArtifactStore
    study: str
    waits_s: Sequence[float] = _WAITS_S

    def push(self, name: str, path: Path) -> None:
        """Upload a file; raises RunError."""

        def write() -> None:
            with path.open("rb") as file:
                self.store.write(self._id(name), file)

        try:
            self._patiently(write)
        except Exception as error:  # of the file system, or of boto3
            raise RunError(masked(f"artifacts must be writable, but got {type(error).__name__}: {error} for {name}")) from error

    def pull(self, name: str, path: Path, sha256: str | None = None, most_bytes: int = _MOST_BYTES) -> None:
        """Download a file to `path`, whole or not at all.

        Raises: RunError: it is missing, not the one with that hash, larger than `most_bytes`, or an ONNX file with weights elsewhere.
        """
        part = path.with_name(f".{path.name}{PART}")

        def read() -> None:
            with self.store.open_reader(self._id(name)) as source, part.open("wb") as file:
                _copied(source, file, most_bytes, name)
            # another host may be in the middle of writing it
            if sha256 is not None and hashlib.sha256(part.read_bytes()).hexdigest() != sha256:
                raise RunError(f"an artifact must be the file that was measured, but {name} has another hash")
            if path.suffix == ".onnx" and not holds_its_weights(part.read_bytes()):
                raise ForeignDataError(f"an ONNX file from elsewhere must hold its weights itself, but {name} names other files")
            part.replace(path)

        try:
            self._patiently(read)
        except RunError:
            raise
        except ArtifactNotFound as error:
            raise RunError(f"an artifact must be there, but {name} is not") from error
        except Exception as error:
            raise RunError(masked(f"artifacts must be readable, but got {type(error).__name__}: {error} for {name}")) from error
        finally:
            part.unlink(missing_ok=True)

    def _patiently(self, action: Callable[[], None]) -> None:
        """Carry out an action, and retry it after a while where it fails; a missing file is not retried."""
        for wait_s in self.waits_s:
            try:
                return action()
            except (ArtifactNotFound, FileNotFoundError, ForeignDataError):
                raise
            except Exception:  # of the file system, of boto3, or the hash: after the last wait it is raised
                time.sleep(wait_s)
        action()

    def _id(self, name: str) -> str:
        return flat_name(f"{self.study}-{name.replace('/', '-')}")


def _copied(source: BinaryIO, file: BinaryIO, most_bytes: int, name: str) -> None:
    left = most_bytes
    while piece := source.read(_PIECE_BYTES):
        left -= len(piece)
        if left < 0:
            raise ForeignDataError(f"an artifact must have at most {most_bytes} bytes, but {name} has more")
        file.write(piece)


@dataclass(slots=True)
class SharedFiles:
    """An evaluator whose files other hosts share: it uploads what it makes, and downloads what another made."""

    evaluate: Evaluator
    artifacts: RunArtifacts
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
        path = self.folder.model_file(outcome.onnx_path)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.artifacts.pull(outcome.onnx_path, path, outcome.onnx_sha256, outcome.size_bytes)

    def _made(self, number: int, rung: Rung, evaluate: Callable[[], Outcome]) -> Outcome:
        if rung is Rung.FINAL:
            self._fetch_student(number)
        outcome = evaluate()
        if outcome.onnx_path:
            place = self.folder.model_file(outcome.onnx_path).parent
            for name in (MODEL_FILE, STUDENT_FILE):
                self.artifacts.push(str((place / name).relative_to(self.folder.root)), place / name)
        return outcome

    def _fetch_student(self, number: int) -> None:
        """Have the weights that a full recovery starts from; where they are nowhere, it starts from the original ones."""
        path = self.folder.candidate(number, final=False) / STUDENT_FILE
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.artifacts.pull(str(path.relative_to(self.folder.root)), path)
            except RunError:
                with suppress(OSError):  # it holds the model, which was measured again here
                    path.parent.rmdir()
