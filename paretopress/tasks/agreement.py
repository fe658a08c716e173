"""Agreement with the original model, for data that has no labels: the targets are what the original puts out."""

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
    Outputs,
    Scorer,
    distillation_loss,
    divergence_of_logits,
    held_to_the_teacher,
    sampled_nll_of_logits,
    sampled_nll_of_others,
    sampled_nll_of_values,
    squared_errors,
)
from paretopress.tasks.metric_names import AGREEMENT, SQNR

# what outputs that are the same up to rounding reach in dB: float32 has 24 bits, of which an export costs a few
_MOST_DB = 100.0


class SameClass:
    """Percent of the items for which the highest logit is that of the original."""

    def __init__(self) -> None:
        self._same: list[npt.NDArray[np.bool_]] = []

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Count a batch."""
        self._same.append(outputs[0].argmax(axis=1) == targets.argmax(axis=1))

    def score(self) -> float:
        """Return the percentage."""
        if not self._same:
            raise ValueError("at least one item is needed")
        return float(self.item_scores().mean())

    def item_scores(self) -> npt.NDArray[np.float64]:
        """Return 100 for each item (N,) on which the two agree, else 0."""
        return 100.0 * np.concatenate(self._same).astype(np.float64)


class SignalToNoise:
    """Decibels: the original's mean square over that of the difference from it, over all items; 100 at most."""

    def __init__(self) -> None:
        self._squares: list[npt.NDArray[np.float64]] = []  # of each batch (N, 2): the signal's and the noise's

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take a batch."""
        wanted, found = (np.reshape(part, (len(part), -1)).astype(np.float64) for part in (targets, outputs[0]))
        self._squares.append(np.stack([np.square(wanted).sum(axis=1), np.square(found - wanted).sum(axis=1)], axis=1))

    def score(self) -> float:
        """Return the decibels."""
        return self.score_of(np.arange(self.items))

    @property
    def items(self) -> int:
        """The number of items."""
        return sum(map(len, self._squares))

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the decibels of the items at `picks` (M,), which may repeat."""
        self._squares[:] = [np.concatenate(self._squares)]
        signal, noise = self._squares[0][picks].sum(axis=0)
        if signal <= 0.0:
            raise ValueError("the original must put out something other than zero")
        return float(min(10.0 * np.log10(signal / noise), _MOST_DB)) if noise > 0.0 else _MOST_DB


@dataclass(frozen=True, slots=True)
class Agreement:
    """Scored by "agreement" (top-1, of logits (N, classes)) or "SQNR" (in dB, of any first output), with the original model.

    Labels have no part in it: students learn from the original alone, whatever the share of the labels.
    """

    by: str = AGREEMENT

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by) if self.by == AGREEMENT else Metric(self.by, "dB")

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for outputs of the original's shape, else what is wrong."""
        found = outputs[0]
        if self.by == AGREEMENT and (found.ndim != 2 or found.shape[1] < 2):
            return f"agreement is of logits (N, classes), but the first output has shape {tuple(found.shape)}; use the metric {SQNR}"
        return "" if found.shape == targets.shape else f"outputs must be (N, ...) as the original's, but got shape {tuple(found.shape)}"

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return SameClass() if self.by == AGREEMENT else SignalToNoise()

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return the distillation loss of logits, or squared errors in units of the original's variance; and what other outputs are off."""
        if self.by == AGREEMENT:
            labels = teacher[0].argmax(dim=1)
            return distillation_loss(student[0].float(), teacher[0], labels, temperature=temperature, alpha=1.0) + held_to_the_teacher(
                student, teacher
            )
        return student[0].new_zeros(()) + squared_errors(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the mean divergence of the logits in nats, or half the squared error in units of the variance; and what others are off."""
        if self.by == AGREEMENT:
            return divergence_of_logits(found[0], wanted[0]) + held_to_the_teacher(found, wanted)
        return found[0].new_zeros(()) + 0.5 * squared_errors(found[:1], wanted[:1]) + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of targets drawn from the model's own prediction."""
        if self.by == AGREEMENT:
            return sampled_nll_of_logits(outputs[0], generator) + sampled_nll_of_others(outputs, generator)
        return sampled_nll_of_values(outputs[0], generator, cost=0.5) + sampled_nll_of_others(outputs, generator)
