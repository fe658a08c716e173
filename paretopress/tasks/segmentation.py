"""Semantic segmentation: logits (N, classes, H, W), labels (N, H, W); a label of 255 counts for nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.core.outcome import Metric
from paretopress.tasks.base import (
    IGNORED,
    Arrays,
    Outputs,
    Scorer,
    distillation_loss,
    divergence_of_logits,
    held_to_the_teacher,
    sampled_nll_of_logits,
    sampled_nll_of_others,
)
from paretopress.tasks.metric_names import MIOU

VOID = 255


class MeanIntersectionOverUnion:
    """Percent: the mean over the classes that occur of intersection over union (Everingham et al. 2015, section 4.2), by torchmetrics."""

    def __init__(self) -> None:
        self._metric: Any = None
        self._counts: list[npt.NDArray[np.int64]] = []  # of each batch (N, 3, classes): pixels shared, predicted and labelled

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Count the pixels of a batch."""
        logits = outputs[0]
        if logits.ndim != 4 or logits.shape[2:] != targets.shape[1:]:
            raise ValueError(f"outputs must be (N, classes, H, W) as the labels {targets.shape}, but got shape={logits.shape}")
        if self._metric is None:
            from torchmetrics.classification import MulticlassJaccardIndex  # a second that only those wait for who ask for it

            self._metric = MulticlassJaccardIndex(num_classes=logits.shape[1], ignore_index=VOID)
        found = logits.argmax(axis=1)
        self._metric.update(torch.from_numpy(found), torch.from_numpy(targets))
        self._counts.append(_counts_of(found, targets, logits.shape[1]))

    def score(self) -> float:
        """Return the percentage."""
        if self._metric is None:
            raise ValueError("at least one item is needed")
        return 100.0 * float(self._metric.compute())

    @property
    def items(self) -> int:
        """The number of images."""
        return sum(map(len, self._counts))

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the percentage of the images at `picks` (M,), which may repeat."""
        self._counts[:] = [np.concatenate(self._counts)]
        shared, predicted, labelled = self._counts[0][picks].sum(axis=0)
        union = predicted + labelled - shared
        if not union.any():
            raise ValueError("at least one pixel must have a label")
        return 100.0 * float(np.mean(shared[union > 0] / union[union > 0]))


def _counts_of(found: npt.NDArray[Any], targets: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int64]:
    """Return the pixels (N, 3, classes) of each image that are of a class in both, as predicted, and as labelled; void ones left out."""
    image = np.arange(len(found)).reshape(-1, 1, 1)
    kept = targets != VOID
    flat = [np.broadcast_to(image, found.shape)[kept] * classes + part[kept] for part in (found, targets)]
    every = [flat[0][flat[0] == flat[1]], *flat]
    return np.stack([np.bincount(part, minlength=len(found) * classes).reshape(-1, classes) for part in every], axis=1)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Scored by the mean intersection over union."""

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(MIOU)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits (N, classes, H, W) and labels (N, H, W) of integers, else what is wrong."""
        logits = outputs[0]
        if logits.ndim != 4 or targets.shape != (len(logits), *logits.shape[2:]):
            return f"logits must be (N, classes, H, W) and labels (N, H, W), but got {tuple(logits.shape)} and {tuple(targets.shape)}"
        return f"labels must be integers, but got {targets.dtype}" if targets.is_floating_point() else ""

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return MeanIntersectionOverUnion()

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the distillation loss of every pixel's logits, and what other outputs are off."""
        labels = targets.flatten().masked_fill(targets.flatten() == VOID, IGNORED)
        first = distillation_loss(_pixels(student[0]).float(), _pixels(teacher[0]), labels, temperature=temperature, alpha=alpha)
        return first + held_to_the_teacher(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence of the pixels' logits in nats, and what other outputs are off."""
        return divergence_of_logits(_pixels(found[0]), _pixels(wanted[0])) + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of a label for every pixel, so weighted that an item's pixels together count as one."""
        pixels = outputs[0][0, 0].numel()
        return sampled_nll_of_logits(_pixels(outputs[0]), generator) / math.sqrt(pixels) + sampled_nll_of_others(outputs, generator)


def _pixels(logits: Tensor) -> Tensor:
    """Return (N * H * W, classes)."""
    return logits.movedim(1, -1).flatten(0, -2)
