"""Tasks by the name of their metric, or by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.core.box_decoding import DECODERS, Decoder
from paretopress.core.outcome import Metric
from paretopress.core.registry import Registry
from paretopress.errors import ConfigError, typed_line, users_line
from paretopress.tasks.agreement import Agreement
from paretopress.tasks.base import Gathered, Outputs, Scorer, Task
from paretopress.tasks.binary import MaskSegmentation, YesOrNo
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.metric_names import AGREEMENT, AUROC, F1, MAP, MAP_50, MIOU, R2, SPEARMAN, SQNR, TOP_1, TOP_5
from paretopress.tasks.raw_heads import RawDetection
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation

# by the name of the metric
TASKS = Registry[Callable[[], Task]](
    "task",
    {
        **{name: partial(Classification, name) for name in (TOP_1, TOP_5, F1)},
        MIOU: Segmentation,
        MAP: Detection,
        **{name: partial(Regression, name) for name in (SPEARMAN, R2)},
        AUROC: partial(Classification, AUROC),
        MAP_50: partial(Detection, MAP_50),
        **{name: partial(Agreement, name) for name in (AGREEMENT, SQNR)},
    },
)
_KINDS: dict[str, Callable[[], Task]] = {
    "classification": Classification, "segmentation": Segmentation, "detection": Detection, "regression": Regression,
    "multi-label": YesOrNo, "mask": MaskSegmentation,
}  # fmt: skip
# (outputs, targets) of all items -> the score
Score = Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]


@dataclass(frozen=True, slots=True)
class Scored:
    """A task that is learnt as another is, and scored by a function of the user's."""

    learnt_as: Task
    metric: Metric
    score: Score

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """As the other task."""
        return self.learnt_as.check(outputs, targets)

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return Gathered(self._signed_score)

    def _signed_score(self, outputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        try:
            score = float(self.score(outputs, targets))
        except Exception as error:  # whatever a function of the user's raises
            raise ConfigError(
                f"the metric {self.metric.name} must return a number, but it raised {typed_line(error)}{users_line(error)}",
                "It gets (outputs, targets) of all items as numpy arrays.",
            ) from error
        return score if self.metric.higher_is_better else -score

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """As the other task."""
        return self.learnt_as.loss(student, teacher, targets, temperature=temperature, alpha=alpha)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """As the other task."""
        return self.learnt_as.divergence(found, wanted)

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """As the other task."""
        return self.learnt_as.sampled_nll(outputs, generator)


def task_kinds() -> list[str]:
    """Return what a task scored by a function of the user's can be learnt as."""
    return list(_KINDS)


def task_by(metric: str) -> Task:
    """Return the task that a metric belongs to; raises ConfigError with the valid names."""
    made = TASKS.find(metric)
    if made is None:
        raise ConfigError(
            f"the metric must be one of {TASKS.listed()}, or FILE.py:FUNCTION, but got {metric!r}",
            "A function takes (outputs, targets) of all items as arrays and returns the score.",
        )
    return made()


def task_by_decoder(decoder: str, decode: Decoder | None, metric: str) -> Task:
    """Return the task of a detector whose raw outputs are read by a decoder; raises ConfigError with the valid names.

    Args:
        decode: the function, if it is one of the user's: (outputs, (rows, columns)) -> (boxes, scores), see `core.box_decoding`.
    """
    if decode is None and decoder not in DECODERS:
        raise ConfigError(f"the decoder must be one of {', '.join(DECODERS)}, or FILE.py:FUNCTION, but got {decoder!r}")
    if metric not in (MAP, MAP_50):
        raise ConfigError(f"a detector is scored by {MAP} or {MAP_50}, but got the metric {metric!r} beside the decoder {decoder!r}")
    return RawDetection(decoder, by=metric, decode=decode)


def task_scored_by(score: Score, kind: str, metric: Metric) -> Task:
    """Return a task that is scored by a function; raises ConfigError for an unknown kind."""
    if kind not in _KINDS:
        raise ConfigError(f"the task must be one of {', '.join(_KINDS)}, but got {kind!r}")
    return Scored(_KINDS[kind](), metric, score)
