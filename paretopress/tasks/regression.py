"""Regression: outputs and targets (N,) or (N, values)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts at their first use
import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.core.outcome import Metric
from paretopress.tasks.base import Gathered, Outputs, Scorer, held_to_the_teacher, sampled_nll_of_others, sampled_nll_of_values
from paretopress.tasks.metric_names import R2, SPEARMAN


def spearman(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return 100 times Spearman's rank correlation, the mean over the values; 0 where one of them is constant."""
    columns = zip(found.reshape(len(found), -1).T, wanted.reshape(len(wanted), -1).T, strict=True)
    each = [float(scipy.stats.spearmanr(a, b).statistic) if np.ptp(a) > 0.0 and np.ptp(b) > 0.0 else 0.0 for a, b in columns]
    return 100.0 * float(np.mean(each))


def r2(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return the percentage of the targets' variance that is explained."""
    return 100.0 * float(1.0 - np.square(found - wanted).mean() / max(float(wanted.var(axis=0).mean()), 1e-12))


_SCORES = {SPEARMAN: spearman, R2: r2}


@dataclass(frozen=True, slots=True)
class Regression:
    """Scored by "Spearman" or "R2", both times 100."""

    by: str = R2

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by, "x 100" if self.by == SPEARMAN else "%")

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for outputs and targets of one shape, else what is wrong."""
        if _flat(outputs[0]).shape != _flat(targets).shape:
            return f"outputs and targets must have one shape, but got {tuple(outputs[0].shape)} and {tuple(targets.shape)}"
        return ""

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        score = _SCORES[self.by]
        return Gathered(lambda found, wanted: score(found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)))

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return squared errors in units of the teacher's variance; the temperature has no part in them."""
        scale = teacher[0].float().var().clamp_min(1e-12)
        taught = F.mse_loss(_flat(student[0]).float(), _flat(teacher[0]).float())
        known = F.mse_loss(_flat(student[0]).float(), _flat(targets).float())
        return (alpha * taught + (1.0 - alpha) * known) / scale + held_to_the_teacher(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return half the mean squared error in units of the wanted outputs' variance."""
        scale = wanted[0].float().var().clamp_min(1e-12)
        return 0.5 * F.mse_loss(found[0].float(), wanted[0].float()) / scale + held_to_the_teacher(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of targets drawn around the outputs; a change costs its divergence."""
        return sampled_nll_of_values(outputs[0], generator, cost=0.5) + sampled_nll_of_others(outputs, generator)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)
