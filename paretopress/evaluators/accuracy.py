"""Top-1 accuracy of an ONNX file with the runtime that will serve it, and of an untrained module with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import nn

from paretopress.errors import DataError, RunError
from paretopress.targets.local import SessionSettings, first_line, open_session
from paretopress.targets.target import Feed, Target

Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Runner = Callable[[Feed], Sequence[Any]]


def _slices(images: npt.NDArray[Any], batch: object) -> Iterator[npt.NDArray[Any]]:
    """Yield `images` in pieces of the file's own batch size, or whole if it is dynamic."""
    step = batch if isinstance(batch, int) and batch > 0 else max(len(images), 1)
    for start in range(0, len(images), step):
        yield images[start : start + step]


def _here(session: ort.InferenceSession, file: str) -> Runner:
    def run(feed: Feed) -> Sequence[Any]:
        try:
            outputs: Sequence[Any] = session.run(None, dict(feed))
        except Exception as error:  # the runtime's exceptions share no base class but Exception
            raise RunError(f"the file must run its input, but got: {first_line(error)} at {file}") from error
        return outputs

    return run


def _classes(run: Runner, node: ort.NodeArg, images: npt.NDArray[Any], file: str) -> npt.NDArray[np.int64]:
    found = []
    for piece in _slices(images, node.shape[0]):
        logits = np.asarray(run({node.name: piece})[0])
        if logits.ndim != 2 or len(logits) != len(piece):
            raise RunError(f"outputs must be (N, classes) with N={len(piece)}, but got shape={logits.shape} at {file}")
        if np.isnan(logits).any():
            raise RunError(f"outputs must not be NaN, but got {int(np.isnan(logits).sum())} NaN at {file}")
        found.append(logits.argmax(axis=1))
    return np.concatenate(found)


def onnx_accuracy(path: Path, batches: Iterable[Batch], *, threads: int, target: Target | None = None) -> float:
    """Return the top-1 accuracy in percent of the first output.

    Args:
        batches: (images, labels): (N, C, H, W) float32 and (N,) integers. A file of fixed batch size is fed in such pieces.
        threads: of the session in this process; a target runs with its own.
        target: what runs the file, because int8 kernels differ between processors; None is this process.
    Raises:
        DataError: there is no image, or a batch has not one label per image.
        RunError: the file does not load or run, or an output is NaN.
    """
    session = open_session(path, SessionSettings(threads=threads))
    node = session.get_inputs()[0]
    run = _here(session, path.name) if target is None else partial(target.run, path)
    correct, total = 0, 0
    for images, labels in batches:
        if labels.shape != (len(images),):
            raise DataError(f"labels must have shape ({len(images)},), but got shape={labels.shape}")
        if len(images) == 0:
            continue
        correct += int((_classes(run, node, images, path.name) == labels).sum())
        total += len(images)
    if total == 0:
        raise DataError("a split must hold at least one image, but got images=0", "Check the path and the split of the data.")
    return 100.0 * correct / total


def module_accuracy(module: nn.Module, batches: Iterable[Batch]) -> float:
    """Return the top-1 accuracy in percent of a module in eval mode; for candidates that are not trained yet, and never shipped.

    Args:
        batches: (images, labels): (N, C, H, W) float32 and (N,) integers, at least one image.
    """
    correct, total = 0, 0
    with torch.inference_mode():
        for images, labels in batches:
            correct += int((module(torch.from_numpy(images)).argmax(dim=1).numpy() == labels).sum())
            total += len(images)
    if total == 0:
        raise DataError("a split must hold at least one image, but got images=0", "Check the path and the split of the data.")
    return 100.0 * correct / total
