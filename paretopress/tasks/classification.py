"""Classification: logits (N, classes), labels (N,)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.core.outcome import Metric
from paretopress.tasks.base import (
    Arrays,
    Gathered,
    Outputs,
    Scorer,
    distillation_loss,
    divergence_of_logits,
    held_to_the_teacher,
    sampled_nll_of_logits,
    sampled_nll_of_others,
)
from paretopress.tasks.metric_names import AUROC, TOP_1, TOP_5

_TOP = {TOP_1: 1, TOP_5: 5}


class TopK:
    """Percent of the items whose label is among the `k` highest logits."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._hits: list[npt.NDArray[np.bool_]] = []

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Count a batch."""
        logits = outputs[0]
        if logits.ndim != 2 or len(logits) != len(targets):
            raise ValueError(f"outputs must be (N, classes) with N={len(targets)}, but got shape={logits.shape}")
        if self._k == 1:
            hits = logits.argmax(axis=1) == targets
        else:
            k = min(self._k, logits.shape[1])
            hits = (np.argpartition(-logits, k - 1, axis=1)[:, :k] == targets[:, None]).any(axis=1)
        self._hits.append(hits)

    def score(self) -> float:
        """Return the percentage."""
        right, items = sum(int(hits.sum()) for hits in self._hits), sum(map(len, self._hits))
        if items == 0:
            raise ValueError("at least one item is needed")
        return 100.0 * right / items

    def item_scores(self) -> npt.NDArray[np.float64]:
        """Return 100 for each item (N,) that is right, else 0."""
        return 100.0 * np.concatenate(self._hits).astype(np.float64)


def f1(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Return the mean F1 score over the classes, in percent."""
    from torchmetrics.functional.classification import multiclass_f1_score  # a second that only those wait for who ask for it

    predicted, wanted = torch.from_numpy(logits.argmax(axis=1)), torch.from_numpy(labels)
    return 100.0 * float(multiclass_f1_score(predicted, wanted, num_classes=logits.shape[1], average="macro"))


def auroc(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Return 100 times the area under the ROC curve: of two classes that of the second, of more the mean of each against the others."""
    from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

    scores, wanted = torch.from_numpy(logits).softmax(dim=1), torch.from_numpy(labels)
    if scores.shape[1] == 2:
        return 100.0 * float(binary_auroc(scores[:, 1], wanted))
    return 100.0 * float(multiclass_auroc(scores, wanted, num_classes=scores.shape[1], average="macro"))


@dataclass(frozen=True, slots=True)
class Classification:
    """Scored by "top-1", "top-5", "F1" or "AUROC" (the means over the classes)."""

    by: str = TOP_1

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits (N, classes) and labels (N,) of integers, else what is wrong."""
        logits = outputs[0]
        if logits.ndim != 2 or len(logits) != len(targets):
            return f"the first output must be logits (N, classes), but got shape {tuple(logits.shape)} for {len(targets)} items"
        if targets.ndim != 1 or targets.is_floating_point():
            return f"labels must be one integer an item, but got {targets.dtype} of shape {tuple(targets.shape)}"
        return ""

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return TopK(_TOP[self.by]) if self.by in _TOP else Gathered(auroc if self.by == AUROC else f1)

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the distillation loss of the logits, and what other outputs are off."""
        first = distillation_loss(student[0].float(), teacher[0], targets, temperature=temperature, alpha=alpha)
        return first + held_to_the_teacher(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence of the logits in nats, and what other outputs are off."""
        return divergence_of_logits(found[0], wanted[0]) + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of labels drawn from the logits."""
        return sampled_nll_of_logits(outputs[0], generator) + sampled_nll_of_others(outputs, generator)
