"""Accuracy of an ONNX file in the target's runtime, and of an untrained module in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from paretopress.core.arrays import Arrays, Batch, Feed
from paretopress.core.model_inputs import items_at_a_time, outputs_in_pieces, pieces, whole
from paretopress.core.resampling import fitted
from paretopress.errors import DataError, RunError, TargetLostError, first_line
from paretopress.runtimes.onnx_runtime import open_session
from paretopress.runtimes.runtime import OpenFile, SessionSettings
from paretopress.targets.target import Target
from paretopress.tasks.base import Scorer, Task
from paretopress.tasks.classification import Classification

# a batch, whose only input may stand for itself
Scored = Batch | tuple[npt.NDArray[Any], npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]
_TOP_1 = Classification()


def onnx_accuracy(path: Path, batches: Iterable[Scored], *, threads: int, target: Target | None = None, task: Task = _TOP_1) -> float:
    """Return the score of a file's outputs, by default top-1 accuracy in percent; arguments and errors as `onnx_scorer`."""
    return onnx_scorer(path, batches, threads=threads, target=target, task=task).score()


def onnx_scorer(path: Path, batches: Iterable[Scored], *, threads: int, target: Target | None = None, task: Task = _TOP_1) -> Scorer:
    """Return the task's scorer with a file's outputs of all batches in it.

    Args:
        batches: (inputs, labels): an array (N, ...) or a tuple of them, and (N, ...). A file of fixed batch size is fed in pieces.
        threads: of the session in this process; a target runs with its own.
        target: what runs the file, in one session, because int8 kernels differ between processors; None is this process.
    Raises:
        DataError: there is no item, or a batch has not one label per item.
        RunError: the file does not load or run, an output is NaN, or the outputs do not fit the task.
    """
    with _opened(path, threads, target, beside_others=False) as file:
        return _scored(batches, task, partial(_run_in_pieces, file, path.name), path.name)


def onnx_accuracies(
    paths: Sequence[Path], batches: Iterable[Scored], *, threads: int, target: Target | None = None, task: Task = _TOP_1
) -> list[float | RunError]:
    """Return the score of each file, or why it has none; the batches are read once, and each goes through all files.

    See `onnx_scorer`. All files are open at a time.
    Raises: DataError: as there. TargetLostError: the target is out of reach.
    """
    scorings: list[_Scoring | RunError] = []
    with ExitStack() as stack:
        for path in paths:
            try:
                file = stack.enter_context(_opened(path, threads, target, beside_others=len(paths) > 1))
            except TargetLostError:
                raise
            except RunError as error:
                scorings.append(error)
            else:
                scorings.append(_Scoring(task.scorer(), partial(_run_in_pieces, file, path.name), path.name))
        under_way = [scoring for scoring in scorings if isinstance(scoring, _Scoring)]
        for inputs, labels in batches if under_way else ():
            for scoring in under_way:
                scoring.try_to_take(inputs, labels)
    return [found if isinstance(found, RunError) else found.failure or found.full().score() for found in scorings]


def module_accuracy(module: nn.Module, batches: Iterable[Scored], task: Task = _TOP_1) -> float:
    """Return the score of a module in eval mode, by default top-1 accuracy; for candidates not trained yet, and never shipped.

    Args:
        batches: (inputs, labels): an array (N, ...) or a tuple of them, and (N, ...); at least one item.
    """

    def run(inputs: Arrays) -> Arrays:
        return tuple(part.numpy() for part in outputs_in_pieces(module, tuple(map(torch.from_numpy, inputs))))

    return _scored(batches, task, run, type(module).__name__).score()


@dataclass(slots=True)
class _Scoring:
    """The scoring of one file or module; `failure` is the error that ended it."""

    scorer: Scorer
    run: Run
    name: str
    items: int = 0
    failure: RunError | None = None

    def take(self, inputs: npt.NDArray[Any] | Arrays, labels: npt.NDArray[Any]) -> None:
        """Run a batch and gather its outputs. Raises: DataError, RunError: see `onnx_scorer`."""
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        count = len(parts[0])
        if len(labels) != count or labels.ndim == 0:
            raise DataError(f"labels must have shape ({count},), but got shape={labels.shape}")
        if count == 0:
            return
        outputs = self.run(parts)
        if np.isnan(outputs[0]).any():
            raise RunError(f"outputs must not be NaN, but got {int(np.isnan(outputs[0]).sum())} NaN at {self.name}")
        try:
            self.scorer.update(outputs, labels)
        except ValueError as error:
            raise RunError(f"{error} at {self.name}") from error
        self.items += count

    def try_to_take(self, inputs: npt.NDArray[Any] | Arrays, labels: npt.NDArray[Any]) -> None:
        """Take a batch unless an earlier one failed; keep what goes wrong with it. Raises: DataError, TargetLostError."""
        if self.failure is not None:
            return
        try:
            self.take(inputs, labels)
        except TargetLostError:
            raise
        except RunError as error:
            self.failure = error

    def full(self) -> Scorer:
        """Return the scorer with all batches in it. Raises: DataError: there was no item."""
        if self.items == 0:
            raise DataError("a split must hold at least one image, but got images=0", "Check the path and the split of the data.")
        return self.scorer


def _scored(batches: Iterable[Scored], task: Task, run: Run, name: str) -> Scorer:
    scoring = _Scoring(task.scorer(), run, name)
    for inputs, labels in batches:
        scoring.take(inputs, labels)
    return scoring.full()


@contextmanager
def _opened(path: Path, threads: int, target: Target | None, *, beside_others: bool) -> Iterator[OpenFile]:
    """Yield a file that is open on a target, or in this process."""
    if target is not None:
        with target.opened(path, beside_others=beside_others) as file:
            yield file
        return
    session = open_session(path, SessionSettings(threads=threads), beside_others=beside_others, timed=False)
    yield OpenFile(tuple((node.name, tuple(node.shape)) for node in session.get_inputs()), _opened_in_process(session, path.name))


def _opened_in_process(session: ort.InferenceSession, file: str) -> Callable[[Feed], list[npt.NDArray[Any]]]:
    def run(feed: Feed) -> list[npt.NDArray[Any]]:
        try:
            outputs: Sequence[Any] = session.run(None, dict(feed))
        except Exception as error:  # the runtime's exceptions share no base class but Exception
            raise RunError(f"the file must run its input, but got: {first_line(error)} at {file}") from error
        return list(outputs)

    return run


def _run_in_pieces(file: OpenFile, name: str, inputs: Arrays) -> Arrays:
    names, shapes = zip(*file.inputs, strict=True)
    taken = tuple(fitted(part, shape) for part, shape in zip(inputs, shapes, strict=True))
    fed = list(pieces(taken, shapes[0], items_at_a_time(taken)))
    found = [[np.asarray(output) for output in file.run(dict(zip(names, parts, strict=True)))] for parts in fed]
    try:
        return tuple(whole(outputs, len(fed[0][0]))[: len(inputs[0])] for outputs in zip(*found, strict=True))
    except ValueError as error:  # an output without an axis of items
        raise RunError(f"outputs must have one row an item, but got: {error} at {name}") from error
