"""Several outputs with a label each: every one is judged by a task of its own, and the score is their weighted mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.core.outcome import Metric
from paretopress.tasks.base import Arrays, Outputs, Scorer, Task, held_to_the_teacher
from paretopress.tasks.spread import PerItem, Resampled


@dataclass(frozen=True, slots=True)
class Labelled:
    """One of the outputs: its place among all, its task, its weight, and the shape of its label; `whole` numbers or not."""

    output: int
    task: Task
    weight: float
    shape: tuple[int, ...]
    whole: bool


class WeightedScorer:
    """The weighted mean of the scores of several outputs."""

    def __init__(self, parts: Sequence[Labelled]) -> None:
        self._parts = parts
        self._scorers = [part.task.scorer() for part in parts]
        self._weights = np.array([part.weight for part in parts]) / sum(part.weight for part in parts)

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take a batch: targets (N, values of all labels)."""
        for part, scorer, label in zip(self._parts, self._scorers, labels_apart(self._parts, torch.from_numpy(targets)), strict=True):
            scorer.update((outputs[part.output],), label.numpy())

    def score(self) -> float:
        """Return the weighted mean."""
        return float(self._weights @ np.array([scorer.score() for scorer in self._scorers]))

    @property
    def items(self) -> int:
        """The number of items."""
        first = self._scorers[0]
        return len(first.item_scores()) if isinstance(first, PerItem) else getattr(first, "items", 0)

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the score of the items at `picks` (M,), which may repeat; raises ValueError where a metric has none of some items."""
        return float(self._weights @ np.array([_score_of(scorer, picks) for scorer in self._scorers]))


class WeightedItemScorer(WeightedScorer):
    """The same where every metric is a mean over items."""

    def item_scores(self) -> npt.NDArray[np.float64]:
        """Return the weighted mean (N,) of the scores of each item."""
        return np.asarray(self._weights @ np.stack([scorer.item_scores() for scorer in self._scorers if isinstance(scorer, PerItem)]))


def _score_of(scorer: Scorer, picks: npt.NDArray[np.int64]) -> float:
    if isinstance(scorer, PerItem):
        return float(scorer.item_scores()[picks].mean())
    if isinstance(scorer, Resampled):
        return scorer.score_of(picks)
    raise ValueError("the metric tells no score of some of the items")


@dataclass(frozen=True, slots=True)
class SeveralOutputs:
    """Students learn every labelled output by its own loss, by weight; outputs without a label are held to the teacher's.

    The labels of an item lie in one row of numbers, one after another in the order of the parts; see `labels_together`.
    """

    parts: tuple[Labelled, ...]

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric("mean of " + " and ".join(part.task.metric.name for part in self.parts), "%")

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" if all outputs fit their labels, else what is wrong with the first that does not."""
        for part, own, label in self._apart(outputs, targets):
            wrong = part.task.check(own, label)
            if wrong:
                return f"{wrong}, at output {part.output}"
        return ""

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        of_items = all(isinstance(part.task.scorer(), PerItem) for part in self.parts)
        return (WeightedItemScorer if of_items else WeightedScorer)(self.parts)

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the weighted mean of the losses of all labelled outputs, and the squared error of the others."""
        terms = [
            part.task.loss(own, (teacher[part.output],), label, temperature=temperature, alpha=alpha)
            for part, own, label in self._apart(student, targets)
        ]
        return self._mean(terms) + held_to_the_teacher(self._others(student), self._others(teacher))

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the weighted mean of the divergences of all labelled outputs, and the squared error of the others."""
        terms = [part.task.divergence((found[part.output],), (wanted[part.output],)) for part in self.parts]
        return self._mean(terms) + held_to_the_teacher(self._others(found), self._others(wanted))

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return the weighted mean of what the labelled outputs' tasks return."""
        terms = [part.task.sampled_nll((outputs[part.output],), generator) for part in self.parts]
        return self._mean(terms)

    def _mean(self, terms: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean of a term for each labelled output."""
        weights = [part.weight for part in self.parts]
        return torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum() / sum(weights)

    def _apart(self, outputs: Outputs, targets: Tensor) -> Iterator[tuple[Labelled, Outputs, Tensor]]:
        labels = labels_apart(self.parts, targets)
        return ((part, (outputs[part.output],), label) for part, label in zip(self.parts, labels, strict=True))

    def _others(self, outputs: Outputs) -> Outputs:
        """Return the outputs without a label, behind one that `held_to_the_teacher` passes over."""
        labelled = {part.output for part in self.parts}
        return [outputs[0], *(output for place, output in enumerate(outputs) if place not in labelled)]


def labels_apart(parts: Sequence[Labelled], targets: Tensor) -> list[Tensor]:
    """Return the labels (N, ...) of each output from rows (N, values of all labels)."""
    columns = torch.split(targets, [math.prod(part.shape) for part in parts], dim=1)
    labels = (column.reshape(len(targets), *part.shape) for column, part in zip(columns, parts, strict=True))
    return [label.round().long() if part.whole else label for label, part in zip(labels, parts, strict=True)]


def labels_together(labels: Sequence[Tensor]) -> Tensor:
    """Return the labels of one item as one row of numbers."""
    return torch.cat([label.reshape(-1).to(torch.float64) for label in labels]).to(torch.float32)
