"""Labels that are yes or no: binary classification, several labels an item, and masks of one channel; logits above 0 mean yes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.core.outcome import Metric
from paretopress.tasks.base import Arrays, Gathered, Outputs, Scorer, held_to_the_teacher, sampled_nll_of_others
from paretopress.tasks.metric_names import AUROC, F1, MAP, MIOU, TOP_1
from paretopress.tasks.segmentation import VOID

Array = npt.NDArray[Any]


def accuracy(logits: Array, labels: Array) -> float:
    """Return the percentage of the labels that are told right."""
    return 100.0 * float(np.mean((logits > 0.0) == (labels > 0)))


def f1(logits: Array, labels: Array) -> float:
    """Return 100 times F1, the mean over the labels that occur or are told; of items and labels (N, labels)."""
    told, true = logits > 0.0, labels > 0
    right, either = (told & true).sum(axis=0), told.sum(axis=0) + true.sum(axis=0)
    if not either.any():
        raise ValueError("at least one item must have a label, or be told to have one")
    return 100.0 * float(np.mean(2.0 * right[either > 0] / either[either > 0]))


def auroc(logits: Array, labels: Array) -> float:
    """Return 100 times the area under the ROC curve, the mean over the labels of which some items have and some have not.

    It is the chance that an item with the label scores higher than one without; ties count half.
    Source: Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve".
    """
    from scipy.stats import rankdata

    true = labels > 0
    with_label, without = true.sum(axis=0), (~true).sum(axis=0)
    judged = (with_label > 0) & (without > 0)
    if not judged.any():
        raise ValueError("some items must have the label and some must not")
    ranks = rankdata(logits, axis=0)
    sums = np.where(true, ranks, 0.0).sum(axis=0)
    areas = (sums[judged] - with_label[judged] * (with_label[judged] + 1) / 2.0) / (with_label[judged] * without[judged])
    return 100.0 * float(np.mean(areas))


def average_precision(logits: Array, labels: Array) -> float:
    """Return 100 times the average precision, the mean over the labels that occur.

    Source: Everingham et al. 2015, "The PASCAL Visual Object Classes challenge: a retrospective", section 2.1, without interpolation.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    true = np.take_along_axis(labels > 0, order, axis=0)
    occurs = true.any(axis=0)
    if not occurs.any():
        raise ValueError("at least one item must have a label")
    hits = np.cumsum(true, axis=0)
    precision = hits / np.arange(1, len(true) + 1)[:, None]
    return 100.0 * float(np.mean((precision * true).sum(axis=0)[occurs] / hits[-1][occurs]))


_SCORES = {TOP_1: accuracy, F1: f1, AUROC: auroc, MAP: average_precision}


class ShareRight:
    """Percent of an item's labels that are told right, the mean over the items."""

    def __init__(self) -> None:
        self._shares: list[npt.NDArray[np.float64]] = []

    def update(self, outputs: Arrays, targets: Array) -> None:
        """Count a batch."""
        right = (_flat(outputs[0]) > 0.0) == (_flat(targets) > 0)
        self._shares.append(right.mean(axis=1))

    def score(self) -> float:
        """Return the percentage."""
        if not self._shares:
            raise ValueError("at least one item is needed")
        return float(self.item_scores().mean())

    def item_scores(self) -> npt.NDArray[np.float64]:
        """Return the percentage (N,) of each item's labels."""
        return 100.0 * np.concatenate(self._shares)


@dataclass(frozen=True, slots=True)
class YesOrNo:
    """Logits (N, labels) or (N,), and targets of the same number of values that are 0 or 1, each a question of its own.

    Scored by "top-1" (the share of the labels that is told right), "F1", "AUROC" or "mAP" (the means over the labels).
    """

    by: str = F1

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits and targets of as many values, which are 0 or 1, else what is wrong."""
        logits = outputs[0]
        if logits[0].numel() != targets[0].numel() or len(logits) != len(targets):
            return f"there must be a logit for each label, but got shapes {tuple(logits.shape)} and {tuple(targets.shape)}"
        return "" if _are_marks(targets) else "labels must be 0 or 1"

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        if self.by == TOP_1:
            return ShareRight()
        score = _SCORES[self.by]
        return Gathered(lambda logits, labels: score(_flat(logits), _flat(labels)))

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the binary distillation loss of the logits, and what other outputs are off."""
        first = binary_distillation_loss(student[0].float(), teacher[0], targets, temperature=temperature, alpha=alpha)
        return first + held_to_the_teacher(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence in nats, summed over an item's labels, and what other outputs are off."""
        return binary_divergence(found[0], wanted[0]).flatten(1).sum(dim=1).mean() + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of labels drawn from the logits."""
        return sampled_binary_nll(outputs[0], generator) + sampled_nll_of_others(outputs, generator)


class Overlap:
    """Percent: the mean of intersection over union of the mask and of the background, where they occur, over all pixels."""

    def __init__(self) -> None:
        self._counts: list[npt.NDArray[np.int64]] = []  # of each batch (N, 2, 2): shared and joint pixels of background and mask

    def update(self, outputs: Arrays, targets: Array) -> None:
        """Count the pixels of a batch."""
        found, labels = outputs[0][:, 0] > 0.0, targets.reshape(len(targets), *outputs[0].shape[2:])
        known = labels != VOID
        counts = []
        for mask in (False, True):
            mine, theirs = (found == mask) & known, ((labels > 0) == mask) & known
            counts.append(np.stack([(mine & theirs).sum(axis=(1, 2)), (mine | theirs).sum(axis=(1, 2))], axis=1))
        self._counts.append(np.stack(counts, axis=1))

    def score(self) -> float:
        """Return the percentage."""
        if not self._counts:
            raise ValueError("at least one item is needed")
        return self.score_of(np.arange(self.items))

    @property
    def items(self) -> int:
        """The number of images."""
        return sum(map(len, self._counts))

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the percentage of the images at `picks` (M,), which may repeat."""
        self._counts[:] = [np.concatenate(self._counts)]
        shared, joint = self._counts[0][picks].sum(axis=0).T
        if not joint.any():
            raise ValueError("at least one pixel must have a label")
        return 100.0 * float(np.mean(shared[joint > 0] / joint[joint > 0]))


@dataclass(frozen=True, slots=True)
class MaskSegmentation:
    """Logits (N, 1, H, W) and masks (N, H, W) or (N, 1, H, W) of 0 and 1; 255 counts for nothing.

    Scored by "mIoU", the mean of mask and background.
    """

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(MIOU)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits of one channel and masks of their size, else what is wrong."""
        logits = outputs[0]
        if logits.ndim != 4 or logits.shape[1] != 1 or targets.numel() != logits.numel():
            return f"logits must be (N, 1, H, W) and masks (N, H, W), but got {tuple(logits.shape)} and {tuple(targets.shape)}"
        return "" if _are_marks(targets, also=VOID) else "the pixels of a mask must be 0, 1, or 255 where they count for nothing"

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return Overlap()

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the binary distillation loss of every pixel, and what other outputs are off."""
        first = binary_distillation_loss(student[0].float(), teacher[0], targets, temperature=temperature, alpha=alpha, void=VOID)
        return first + held_to_the_teacher(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence of the pixels in nats, and what other outputs are off."""
        return binary_divergence(found[0], wanted[0]).mean() + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of a mask, so weighted that an item's pixels together count as one."""
        pixels = outputs[0][0].numel()
        return sampled_binary_nll(outputs[0], generator) / math.sqrt(pixels) + sampled_nll_of_others(outputs, generator)


def binary_distillation_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float, alpha: float, void: int | None = None
) -> Tensor:
    """Return alpha * T^2 * KL(sigmoid(teacher / T) || sigmoid(student / T)) + (1 - alpha) * binary cross-entropy, the mean over all values.

    Args:
        student, teacher: logits (N, ...) float.
        targets: as many values, 0 or 1; those that are `void` count for nothing in the cross-entropy.
        temperature: T > 0. alpha: in [0, 1].
    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2, for two classes.
    """
    soft = binary_divergence(student / temperature, teacher.float() / temperature).mean()
    if alpha >= 1.0:
        return alpha * temperature**2 * soft
    wanted = targets.reshape(student.shape).to(student.dtype)
    counts = torch.ones_like(wanted) if void is None else (wanted != void).to(student.dtype)
    hard = F.binary_cross_entropy_with_logits(student, wanted.clamp(0.0, 1.0), counts, reduction="sum") / counts.sum().clamp_min(1.0)
    return alpha * temperature**2 * soft + (1.0 - alpha) * hard


def binary_divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence, in nats, of each Bernoulli distribution that a logit stands for from another."""
    yes = wanted.sigmoid()
    return yes * (F.logsigmoid(wanted) - F.logsigmoid(found)) + (1.0 - yes) * (F.logsigmoid(-wanted) - F.logsigmoid(-found))


def sampled_binary_nll(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return minus the log-likelihood of yes or no drawn for each logit, summed."""
    drawn = (torch.rand(logits.shape, generator=generator) < logits.detach().sigmoid()).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")


def _flat(values: Array) -> Array:
    """Return (N, values)."""
    return values.reshape(len(values), -1)


def _are_marks(targets: Tensor, also: int | None = None) -> bool:
    found = (targets == 0) | (targets == 1)
    return bool((found if also is None else found | (targets == also)).all())
