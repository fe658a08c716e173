"""Object detection: outputs are logits and boxes of candidates, targets are boxes with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.core.outcome import Metric
from paretopress.errors import ConfigError
from paretopress.tasks.base import (
    Arrays,
    Outputs,
    Scorer,
    distillation_loss,
    divergence_of_logits,
    sampled_nll_of_logits,
    sampled_nll_of_others,
)
from paretopress.tasks.metric_names import MAP

BACKGROUND = 0
_LEAST_SCORE, _OVERLAP, _MOST, _MATCH = 0.05, 0.5, 100, 0.5
# the best candidates of a photo, before those that overlap are left out; fewer where as many are left of them as count
_CONSIDERED, _FIRST_CONSIDERED = 1_000, 250


class MeanAveragePrecision:
    """Percent: average precision, the mean over the classes (Lin et al. 2014, "COCO"), by torchmetrics.

    By "mAP" at overlaps of 0.5 to 0.95, by "mAP50" at 0.5. Of each photo the 100 best candidates above 5 % count, after those were left out
    that overlap a better one of their class by half.
    """

    def __init__(self, by: str = MAP) -> None:
        self._key = "map" if by == MAP else "map_50"
        try:
            from torchmetrics.detection import MeanAveragePrecision as Metric  # needs a package that only detection needs

            thresholds = None if by == MAP else [0.5]
            self._new: Callable[[], Any] = partial(Metric, box_format="xyxy", iou_thresholds=thresholds, backend="faster_coco_eval")
            self._metric = self._new()
        except ImportError as error:
            raise ConfigError(f"{MAP} needs faster-coco-eval, but got: {error}", "pip install 'paretopress[detection]'") from error
        self._metric.warn_on_many_detections = False
        self._found: list[dict[str, Tensor]] = []
        self._there: list[dict[str, Tensor]] = []

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take the candidates of a batch."""
        logits, boxes = (torch.from_numpy(part).float() for part in outputs[:2])
        wrong = _wrong(logits, boxes, torch.from_numpy(targets))
        if wrong:
            raise ValueError(wrong)
        found = [one.softmax(dim=1)[:, BACKGROUND + 1 :] for one in logits]
        self.take([best_of(values, places, _LEAST_SCORE, _OVERLAP) for values, places in zip(found, boxes, strict=True)], targets)

    def take(self, found: list[dict[str, Tensor]], targets: npt.NDArray[Any]) -> None:
        """Take what was found in a batch of photos: "boxes", "scores" and "labels" of each."""
        there = [_there(torch.from_numpy(one)) for one in targets]
        self._metric.update(found, there)
        self._found += found
        self._there += there

    def score(self) -> float:
        """Return the percentage."""
        if not self._there:
            raise ValueError("at least one item is needed")
        return self._percentage(self._metric)

    @property
    def items(self) -> int:
        """The number of photos."""
        return len(self._there)

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the percentage of the photos at `picks` (M,), which may repeat."""
        metric = self._new()
        metric.warn_on_many_detections = False
        metric.update([self._found[i] for i in picks], [self._there[i] for i in picks])
        return self._percentage(metric)

    def _percentage(self, metric: Any) -> float:
        return 100.0 * max(float(metric.compute()[self._key]), 0.0)  # -1 where no photo has an object


def best_of(scores: Tensor, boxes: Tensor, least_score: float, overlap: float) -> dict[str, Tensor]:
    """Return boxes, scores and labels from 1 of the 100 best candidates of a photo that no better one of their class overlaps.

    Args:
        scores: (candidates, classes) in [0, 1], without a background. boxes: (candidates, 4).
        overlap: intersection over union above which the worse one goes.
    """
    from torchvision.ops import batched_nms

    candidates, kinds = (scores > least_score).nonzero(as_tuple=True)
    values, order = scores[candidates, kinds].sort(descending=True, stable=True)
    values, order = values[:_CONSIDERED], order[:_CONSIDERED]
    places, kinds = boxes[candidates[order]], kinds[order]
    for considered in (_FIRST_CONSIDERED, _CONSIDERED):  # what is kept does not depend on those that score less
        kept = batched_nms(places[:considered], values[:considered], kinds[:considered], overlap)[:_MOST]
        if len(kept) == _MOST:
            break
    return {"boxes": places[kept], "scores": values[kept], "labels": kinds[kept] + BACKGROUND + 1}


def _there(rows: Tensor) -> dict[str, Tensor]:
    rows = rows[rows[:, 4] > BACKGROUND]
    return {"boxes": rows[:, :4].float(), "labels": rows[:, 4].long()}


def _wrong(logits: Tensor, boxes: Tensor, targets: Tensor) -> str:
    if logits.ndim != 3 or boxes.shape != (*logits.shape[:2], 4):
        return (
            f"outputs must be logits (N, candidates, classes) and boxes (N, candidates, 4), "
            f"but got {tuple(logits.shape)} and {tuple(boxes.shape)}"
        )
    if targets.ndim != 3 or targets.shape[0] != len(logits) or targets.shape[2] != 5:
        return f"targets must be (N, objects, 5), a box and a label each, but got {tuple(targets.shape)}"
    return ""


@dataclass(frozen=True, slots=True)
class Detection:
    """Scored by the mean average precision, "mAP" or "mAP50".

    The first output is logits (N, candidates, classes), class 0 the background; the second boxes (N, candidates, 4), (x1, y1, x2, y2) in
    the units of the targets. Targets are (N, objects, 5): a box and its label; rows with label 0 or less fill up.
    """

    by: str = MAP

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for logits, boxes and rows of box and label, else what is wrong."""
        if len(outputs) < 2:
            return f"outputs must be logits and boxes, but got {len(outputs)}: hand over a model that decodes its boxes and chooses none"
        return _wrong(outputs[0], outputs[1], targets)

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return MeanAveragePrecision(self.by)

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the distillation loss of every candidate's logits, and how far boxes of objects are off; per object seen.

        A candidate's label is that of the object that the teacher's box overlaps by half or more, else the background.
        """
        labels = _labels(teacher[1].float(), targets)
        first = distillation_loss(_rows(student[0]).float(), _rows(teacher[0]), labels, temperature=temperature, alpha=alpha)
        return first * _candidates_an_object(teacher[0]) + _boxes_off(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence of the candidates' logits in nats, per object seen, and how far boxes are off."""
        return divergence_of_logits(_rows(found[0]), _rows(wanted[0])) * _candidates_an_object(wanted[0]) + _boxes_off(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of a label for every candidate, weighted so that a change costs what `divergence` says."""
        weight = torch.sqrt(_candidates_an_object(outputs[0].detach()) / outputs[0].shape[1])
        return weight * sampled_nll_of_logits(_rows(outputs[0]), generator) + sampled_nll_of_others(outputs, generator)


def _rows(logits: Tensor) -> Tensor:
    """Return (N * candidates, classes)."""
    return logits.flatten(0, 1)


def _of_objects(logits: Tensor) -> Tensor:
    """Return (N, candidates): how probably each is no background."""
    return 1.0 - logits.float().softmax(dim=2)[..., BACKGROUND]


def _candidates_an_object(logits: Tensor) -> Tensor:
    """Return how many candidates there are to each that shows an object: the others are many and teach little."""
    return logits.shape[0] * logits.shape[1] / _of_objects(logits).sum().clamp_min(1.0)


def _boxes_off(found: Outputs, wanted: Outputs) -> Tensor:
    """Return the smooth L1 distance of boxes, in units of the wanted boxes' mean size, weighed by how probably they show objects."""
    weights, boxes = _of_objects(wanted[0]), wanted[1].float()
    size = (boxes[..., 2:] - boxes[..., :2]).abs().mean().clamp_min(1e-6)
    each = F.smooth_l1_loss(found[1].float() / size, boxes / size, reduction="none").mean(2)
    return (each * weights).sum() / weights.sum().clamp_min(1.0)


def _labels(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return (N * candidates,) labels of boxes (N, candidates, 4)."""
    from torchvision.ops import box_iou

    found = []
    for places, rows in zip(boxes, targets, strict=True):
        objects = _there(rows)
        labels = torch.zeros(len(places), dtype=torch.long, device=boxes.device)
        if len(objects["labels"]):
            overlap, which = box_iou(places, objects["boxes"].to(places)).max(1)
            labels = torch.where(overlap >= _MATCH, objects["labels"].to(labels)[which], labels)
        found.append(labels)
    return torch.cat(found)
