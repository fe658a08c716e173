"""The score of an ONNX file with the runtime that will serve it, and of an untrained module with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from paretopress.errors import DataError, RunError, first_line
from paretopress.inputs import outputs_of, pieces
from paretopress.targets.local import SessionSettings, open_session
from paretopress.targets.target import Feed, Target
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

Arrays = tuple[npt.NDArray[Any], ...]
# (inputs, labels); one input may stand for itself
Batch = tuple[npt.NDArray[Any] | Arrays, npt.NDArray[Any]]
Runner = Callable[[Feed], Sequence[Any]]
_TOP_1 = Classification()


def _parts(inputs: npt.NDArray[Any] | Arrays) -> Arrays:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _here(session: ort.InferenceSession, file: str) -> Runner:
    def run(feed: Feed) -> Sequence[Any]:
        try:
            outputs: Sequence[Any] = session.run(None, dict(feed))
        except Exception as error:  # the runtime's exceptions share no base class but Exception
            raise RunError(f"the file must run its input, but got: {first_line(error)} at {file}") from error
        return outputs

    return run


def onnx_accuracy(path: Path, batches: Iterable[Batch], *, threads: int, target: Target | None = None, task: Task = _TOP_1) -> float:
    """Return the score of a file's outputs, by default top-1 accuracy in percent.

    Args:
        batches: (inputs, labels): an array (N, ...) or a tuple of them, and (N, ...). A file of fixed batch size is fed in pieces.
        threads: of the session in this process; a target runs with its own.
        target: what runs the file, because int8 kernels differ between processors; None is this process.
    Raises:
        DataError: there is no item, or a batch has not one label per item.
        RunError: the file does not load or run, an output is NaN, or the outputs do not fit the task.
    """
    session = open_session(path, SessionSettings(threads=threads), timed=False)
    nodes = session.get_inputs()
    run = _here(session, path.name) if target is None else partial(target.run, path)
    return _scored(batches, task, lambda inputs: _run_in_pieces(run, nodes, inputs, path.name), path.name)


def module_accuracy(module: nn.Module, batches: Iterable[Batch], task: Task = _TOP_1) -> float:
    """Return the score of a module in eval mode, by default top-1 accuracy; for candidates not trained yet, and never shipped.

    Args:
        batches: (inputs, labels): an array (N, ...) or a tuple of them, and (N, ...); at least one item.
    """

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            return tuple(part.numpy() for part in outputs_of(module(*map(torch.from_numpy, inputs))))

    return _scored(batches, task, run, type(module).__name__)


def _scored(batches: Iterable[Batch], task: Task, run: Callable[[Arrays], Arrays], name: str) -> float:
    scorer, total = task.scorer(), 0
    for inputs, labels in batches:
        count = len(_parts(inputs)[0])
        if len(labels) != count or labels.ndim == 0:
            raise DataError(f"labels must have shape ({count},), but got shape={labels.shape}")
        if count == 0:
            continue
        outputs = run(_parts(inputs))
        if np.isnan(outputs[0]).any():
            raise RunError(f"outputs must not be NaN, but got {int(np.isnan(outputs[0]).sum())} NaN at {name}")
        try:
            scorer.update(outputs, labels)
        except ValueError as error:
            raise RunError(f"{error} at {name}") from error
        total += count
    if total == 0:
        raise DataError("a split must hold at least one image, but got images=0", "Check the path and the split of the data.")
    return scorer.score()


def _run_in_pieces(run: Runner, nodes: Sequence[ort.NodeArg], inputs: Arrays, file: str) -> Arrays:
    found = [
        [np.asarray(output) for output in run({node.name: part for node, part in zip(nodes, parts, strict=True)})]
        for parts in pieces(inputs, nodes[0].shape)
    ]
    try:
        return tuple(np.concatenate(outputs) for outputs in zip(*found, strict=True))
    except ValueError as error:  # an output without an axis of items
        raise RunError(f"outputs must have one row an item, but got: {error} at {file}") from error
