"""The task that a metric means for labels of a form: classes, one-hot rows, several labels an item, yes or no, masks of one channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.core.outcome import Metric
from paretopress.tasks.base import Arrays, Outputs, Scorer, Task
from paretopress.tasks.binary import MaskSegmentation, YesOrNo
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.metric_names import AUROC, F1, MAP, TOP_1
from paretopress.tasks.segmentation import Segmentation

_YES_OR_NO = frozenset({TOP_1, F1, AUROC})


@dataclass(frozen=True, slots=True)
class OneHotScorer:
    """Scores targets (N, classes) by the class of the highest."""

    inner: Scorer

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take a batch."""
        self.inner.update(outputs, targets.argmax(axis=1))

    def score(self) -> float:
        """Return the score of all batches."""
        return self.inner.score()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # `item_scores` of those that have it


@dataclass(frozen=True, slots=True)
class OneHot:
    """Classification by labels (N, classes) of which one is 1 and the others are 0."""

    learnt_as: Classification

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return self.learnt_as.metric

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits and labels (N, classes), else what is wrong."""
        if targets.shape != outputs[0].shape:
            return f"labels must be (N, classes) as the logits {tuple(outputs[0].shape)}, but got {tuple(targets.shape)}"
        return self.learnt_as.check(outputs, targets.argmax(dim=1))

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return OneHotScorer(self.learnt_as.scorer())

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """As of classification."""
        return self.learnt_as.loss(student, teacher, targets.argmax(dim=1), temperature=temperature, alpha=alpha)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """As of classification."""
        return self.learnt_as.divergence(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """As of classification."""
        return self.learnt_as.sampled_nll(outputs, generator)


def task_for_labels(task: Task, outputs: Outputs, targets: Tensor) -> tuple[Task, str]:
    """Return the task that a metric's task is for such labels, and what they were taken for; the task itself and "" where it fits as it is.

    Args:
        task: by the metric's name. outputs: (N, ...) of the model. targets: (M, ...) labels of some items.
    """
    first = outputs[0]
    width, marks = first[0].numel(), bool(((targets == 0) | (targets == 1)).all())
    same = targets.shape[1:] == first.shape[1:] or (width == 1 and targets[0].numel() == 1)
    if isinstance(task, Classification) and same and marks and task.by in _YES_OR_NO:
        if width == 1:
            return YesOrNo(task.by), "one logit an item, whose label is 0 or 1: it means yes where it is above 0"
        if first.ndim == 2 and task.by == TOP_1 and bool((targets.sum(dim=1) == 1).all()):
            return OneHot(task), "labels are one-hot: the class of an item is where its 1 is"
        if first.ndim == 2:
            return YesOrNo(task.by), "several labels an item: each logit means yes where it is above 0"
    if isinstance(task, Detection) and same and marks and first.ndim == 2:
        return YesOrNo(MAP), "several labels an item: scored by the average precision of each, the mean over the labels"
    if isinstance(task, Segmentation) and first.ndim == 4 and first.shape[1] == 1:
        return MaskSegmentation(), "masks of one channel: a pixel belongs to the mask where its logit is above 0"
    return task, ""
