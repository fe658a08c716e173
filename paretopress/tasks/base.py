"""The protocol of a task, and losses that tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.core.outcome import Metric

Arrays = Sequence[npt.NDArray[Any]]
Outputs = Sequence[Tensor]


class Scorer(Protocol):
    """Accumulates outputs batch by batch, and returns the score of all."""

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take the outputs (N, ...) of a batch and its targets (N, ...). Raises: ValueError: they do not belong together."""

    def score(self) -> float:
        """Return the score of all batches; raises ValueError if there was none."""


class Task(Protocol):
    """Scores outputs, and defines the losses of students. The first output is scored; the others are trained towards the teacher's."""

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        ...

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" if outputs (N, ...) and targets (N, ...) of one batch fit the task, else what is wrong."""

    def scorer(self) -> Scorer:
        """Return a new scorer."""

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return what a student minimises, a scalar; `alpha` is the teacher's share, 1 - alpha that of the targets."""

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return how far outputs are from others, a scalar, 0 where they are the same; mean over the items."""

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of targets drawn from the model's own prediction, a scalar, summed over the items."""


class Gathered:
    """A scorer that keeps all first outputs and targets, for metrics that need them at once."""

    def __init__(self, of_all: Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]) -> None:
        """Take the function of (outputs, targets) that returns the score."""
        self._of_all = of_all
        self._outputs: list[npt.NDArray[Any]] = []
        self._targets: list[npt.NDArray[Any]] = []

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Keep a batch."""
        self._outputs.append(outputs[0])
        self._targets.append(targets)

    def score(self) -> float:
        """Return the score of all that was kept."""
        if not self._targets:
            raise ValueError("at least one batch is needed")
        return float(self._of_all(*self._all()))

    @property
    def items(self) -> int:
        """The number of items."""
        return sum(map(len, self._targets))

    def score_of(self, picks: npt.NDArray[np.int64]) -> float:
        """Return the score of the items at `picks` (M,), which may repeat."""
        outputs, targets = self._all()
        return float(self._of_all(outputs[picks], targets[picks]))

    def _all(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return all outputs and targets as one array each."""
        for kept in (self._outputs, self._targets):
            kept[:] = [np.concatenate(kept)]
        return self._outputs[0], self._targets[0]


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """Return alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * cross-entropy, a scalar.

    Args:
        student, teacher: logits (N, classes) float. labels: (N,) int64; negative ones count for nothing in the cross-entropy.
        temperature: T > 0; the factor T^2 keeps the gradient's size independent of T. alpha: in [0, 1].
    Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2.
    """
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1), reduction="batchmean", log_target=True
    )
    hard = F.cross_entropy(student, labels, ignore_index=IGNORED) if alpha < 1.0 else student.new_zeros(())
    return alpha * temperature**2 * soft + (1.0 - alpha) * hard


IGNORED = -100


def divergence_of_logits(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence, in nats, of (N, classes) logits from others."""
    return F.kl_div(F.log_softmax(found, dim=1), F.log_softmax(wanted, dim=1), reduction="batchmean", log_target=True)


def sampled_nll_of_logits(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return minus the log-likelihood of labels drawn from (N, classes) logits, summed."""
    labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator).squeeze(1)
    return F.cross_entropy(logits, labels, reduction="sum")


def sampled_nll_of_values(values: Tensor, generator: torch.Generator, *, cost: float) -> Tensor:
    """Return minus the log-likelihood of targets drawn around values (N, ...), summed over the items.

    Their spread is that of the values over the batch, so much wider or narrower that a change costs what a divergence says which is
    `cost` times the mean squared error in units of the variance.
    """
    spread = values.detach().float().std().clamp_min(1e-6) * math.sqrt(values[0].numel() / (2.0 * cost))
    drawn = values.detach() + spread * torch.randn(values.shape, generator=generator)
    return 0.5 * ((values - drawn) / spread).square().sum()


def sampled_nll_of_others(outputs: Outputs, generator: torch.Generator) -> Tensor:
    """Return minus the log-likelihood of values drawn around all outputs but the first; a change costs what `held_to_the_teacher` says."""
    terms = [sampled_nll_of_values(output, generator, cost=1.0) for output in outputs[1:] if output.is_floating_point()]
    return torch.stack(terms).sum() if terms else outputs[0].new_zeros(())


def held_to_the_teacher(student: Outputs, teacher: Outputs) -> Tensor:
    """Return the mean squared error of all outputs but the first, each in units of the teacher's variance; summed over them."""
    return student[0].new_zeros(()) + squared_errors(student[1:], teacher[1:])


def squared_errors(student: Outputs, teacher: Outputs) -> Tensor | float:
    """Return the mean squared errors of what is of floating point, each in units of the teacher's variance; summed."""
    terms = (
        F.mse_loss(mine.float(), theirs.float()) / theirs.float().var().clamp_min(1e-12)
        for mine, theirs in zip(student, teacher, strict=True)
        if mine.is_floating_point()
    )
    return sum(terms, start=0.0)
