"""The folder of one run: where everything lies, and the lock that keeps a second process out.

config.json  state.json      what was asked, and what was found before the first trial
storage-url                  URL of the shared storage where it holds a password; for its owner's eyes alone
tables.json  graph.json      costs and predicted damages, and the structure that they belong to
journal.log                  the study (Optuna journal)
log.jsonl    latencies.jsonl events and measurements, a JSON line each
workers.log                  what evaluating processes print
samples.npz                  validation items for self-checks, by input
baseline_scores.npy          the unchanged model's score of each validation item, none where the metric has no score of one item
baseline.onnx  trials/0007/  finalists/0007/    model.onnx and student.safetensors
front.json  front.png        the result
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paretopress.core.confined_path import confined_path
from paretopress.errors import OutsideFolderError, RunFolderError

PART = ".part"
MODEL_FILE = "model.onnx"
_MODEL_NAME = re.compile(r"baseline\.onnx|(trials|finalists)/[0-9]{1,12}/[a-z-]{1,40}\.onnx")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration, as JSON."""
        return self.root / "config.json"

    @property
    def storage_url(self) -> Path:
        """The URL of the shared storage, where it holds a password."""
        return self.root / "storage-url"

    @property
    def state(self) -> Path:
        """What was found before the first trial."""
        return self.root / "state.json"

    @property
    def worked(self) -> Path:
        """Seconds that the run has been worked on."""
        return self.root / "worked"

    @property
    def tables(self) -> Path:
        """Costs of layers and predicted damages of choices."""
        return self.root / "tables.json"

    @property
    def graph(self) -> Path:
        """The structure of the model."""
        return self.root / "graph.json"

    @property
    def journal(self) -> Path:
        """The study's journal."""
        return self.root / "journal.log"

    @property
    def baseline(self) -> Path:
        """The unchanged model's ONNX file."""
        return self.root / "baseline.onnx"

    @property
    def baseline_scores(self) -> Path:
        """The unchanged model's score of each validation item."""
        return self.root / "baseline_scores.npy"

    @property
    def log(self) -> Path:
        """One JSON line per event."""
        return self.root / "log.jsonl"

    @property
    def latencies(self) -> Path:
        """One JSON line per measurement, in their order."""
        return self.root / "latencies.jsonl"

    @property
    def worker_log(self) -> Path:
        """What the processes that evaluate plans print."""
        return self.root / "workers.log"

    @property
    def samples(self) -> Path:
        """A few validation images, for the self-check of bundles."""
        return self.root / "samples.npz"

    @property
    def front(self) -> Path:
        """The result."""
        return self.root / "front.json"

    @property
    def picture(self) -> Path:
        """The result as a picture."""
        return self.root / "front.png"

    def found(self) -> tuple[Path, ...]:
        """Return the files that hold what was found before the first trial."""
        return self.state, self.tables, self.graph, self.baseline, self.samples

    def candidate(self, number: int, *, final: bool) -> Path:
        """Return the folder of a trial's candidate, or of its full recovery."""
        return self.root / ("finalists" if final else "trials") / f"{number:04d}"

    def model_file(self, name: str) -> Path:
        """Return the path of an ONNX file of this run: the baseline's, a trial's or a finalist's, named relative to this folder.

        Names come from the study, which others can write to.
        Raises: OutsideFolderError: it is no such file's name, or leads out of this folder.
        """
        if not _MODEL_NAME.fullmatch(name):
            raise OutsideFolderError(f"a run's ONNX file must be the baseline's, a trial's or a finalist's, but got {name[:200]!r}")
        return confined_path(self.root, name)

    def part(self, place: Path) -> Path:
        """Return where a candidate's folder is written before it is renamed to `place`."""
        return place.with_name(f".{place.name}{PART}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, cleared of what a dead one left half-written; raises RunFolderError if another holds it."""
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunFolderError(f"a run may be worked on by one process, but {self.root} is in use", "Wait for it, or end it.") from error
        try:
            for half_written in self.root.glob(f"*/.*{PART}"):
                shutil.rmtree(half_written, ignore_errors=True)
            yield
        finally:
            lock.release()

    def read(self, path: Path) -> dict[str, Any]:
        """Return a JSON file of this run; raises RunFolderError if it is missing or damaged."""
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            hint = "Is this the folder of a run, and has it got that far? `paretopress status RUN` tells."
            raise RunFolderError(f"a run must have {path.name}, but {self.root} has none", hint) from error
        except (OSError, json.JSONDecodeError) as error:
            raise RunFolderError(f"{path} must be readable JSON, but got {error}") from error
        return value


def create_run_folder(root: Path) -> RunFolder:
    """Return a new run folder; raises RunFolderError if the path exists or cannot be made."""
    try:
        root.mkdir(parents=True)
    except FileExistsError as error:
        raise RunFolderError(
            f"a new run needs a new folder, but {root} exists", "Name another with --run, or go on with `paretopress resume`."
        ) from error
    except OSError as error:
        raise RunFolderError(f"the run folder must be writable, but got {error.strerror} at {root}") from error
    return RunFolder(root)


def open_run_folder(root: Path) -> RunFolder:
    """Return an existing run folder; raises RunFolderError if it is none."""
    folder = RunFolder(root)
    if not folder.config.is_file():
        raise RunFolderError(f"a run folder must hold config.json, but {root} does not", "Give the folder that `search` was started with.")
    return folder
