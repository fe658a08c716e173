"""Object detection by raw head outputs: scored on boxes that a decoder reads from them, learnt from the original's heads alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.core.box_decoding import Decoder, bins_of, decoder_of, ssd_parts
from paretopress.core.outcome import Metric
from paretopress.tasks.base import Arrays, Outputs, Scorer, sampled_nll_of_values, squared_errors
from paretopress.tasks.binary import binary_divergence
from paretopress.tasks.detection import MeanAveragePrecision, best_of
from paretopress.tasks.metric_names import MAP

_LEAST_SCORE, _OVERLAP = 0.001, 0.7
YOLO, YOLOX, SSD = "yolo", "yolox", "ssd"


class DecodedPrecision(MeanAveragePrecision):
    """The mean average precision of what a decoder reads from the outputs, after non-maximum suppression."""

    def __init__(self, decode: Decoder, size: tuple[int, int], by: str) -> None:
        """Take the decoder, and (rows, columns) of the model's input."""
        super().__init__(by)
        self._decode, self._size = decode, size

    def update(self, outputs: Arrays, targets: npt.NDArray[Any]) -> None:
        """Take the outputs of a batch."""
        boxes, scores = (torch.from_numpy(part.astype(np.float32)) for part in self._decode(outputs, self._size))
        self.take([best_of(values, places, _LEAST_SCORE, _OVERLAP) for values, places in zip(scores, boxes, strict=True)], targets)


@dataclass(frozen=True, slots=True)
class RawDetection:
    """Outputs are what the heads of a detector put out; targets (N, objects, 5) a box in pixels of the input and a label from 1.

    Attributes:
        decoder: "yolo", "yolox", "ssd", or the name of a function of the user's, which is `decode` then.
        size: (rows, columns) of the model's input.
        by: "mAP" (the mean over overlaps of 0.5 to 0.95) or "mAP50". classes: names by label, less 1.
        anchors: the default boxes of an SSD, corners in pixels of the input.
    """

    decoder: str = YOLO
    size: tuple[int, int] = (0, 0)
    by: str = MAP
    decode: Decoder | None = None
    classes: tuple[str, ...] = ()
    anchors: tuple[tuple[float, ...], ...] = ()

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return Metric(self.by)

    def check(self, outputs: Outputs, targets: Tensor) -> str:
        """Return "" for outputs that the decoder reads and rows of box and label, else what is wrong."""
        if targets.ndim != 3 or targets.shape[2] != 5:
            return f"targets must be (N, objects, 5), a box and a label each, but got {tuple(targets.shape)}"
        if self.decoder == SSD and not self.anchors:
            return "the decoder ssd needs the model's default boxes: let it hold a tensor `anchors` (candidates, 4), corners in pixels"
        try:
            boxes, scores = self._decoder()([output.float().numpy() for output in outputs], self.size)
        except Exception as error:  # whatever a decoder meets in outputs that it was not made for
            shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
            return f"the decoder {self.decoder} must read the outputs {shapes}, but it raised {type(error).__name__}: {error}"
        if boxes.shape != (len(targets), boxes.shape[1], 4) or scores.shape[:2] != boxes.shape[:2]:
            wanted = "boxes (N, candidates, 4) and scores (N, candidates, classes)"
            return f"the decoder must return {wanted}, but got {boxes.shape} and {scores.shape}"
        return ""

    def scorer(self) -> Scorer:
        """Return a new scorer."""
        return DecodedPrecision(self._decoder(), self.size, self.by)

    def loss(self, student: Outputs, teacher: Outputs, targets: Tensor, *, temperature: float, alpha: float) -> Tensor:
        """Return how far the heads are from the original's, per object that it sees; labels have no part in it."""
        return self.divergence(student, teacher)

    def divergence(self, found: Outputs, wanted: Outputs) -> Tensor:
        """Return the divergence of the class scores in nats and of the boxes, per object seen; of heads of another form squared errors."""
        mine, theirs = heads(self.decoder, found), heads(self.decoder, wanted)
        if mine is None or theirs is None:
            return found[0].new_zeros(()) + squared_errors(found, wanted)
        weights = theirs.seen()
        objects = weights.sum().clamp_min(1.0)
        scores = _scores_apart(mine, theirs)
        boxes = (_boxes_apart(mine, theirs) * weights).sum()
        return (scores + boxes) / objects

    def sampled_nll(self, outputs: Outputs, generator: torch.Generator) -> Tensor:
        """Return minus the log-likelihood of outputs drawn around the model's own, so weighted that a change costs its divergence."""
        terms = [sampled_nll_of_values(output, generator, cost=1.0) for output in outputs if output.is_floating_point()]
        return torch.stack(terms).sum()

    def to_json(self) -> dict[str, Any]:
        """Return how a bundle reads boxes from the outputs as a JSON object; {} where a function of the user's does."""
        if self.decode is not None:
            return {}
        anchors = {"anchors": [list(box) for box in self.anchors]} if self.anchors else {}
        return {"decoder": self.decoder, "size": list(self.size), "classes": list(self.classes)} | anchors

    def _decoder(self) -> Decoder:
        return self.decode or decoder_of(self.decoder, self.anchors)


@dataclass(frozen=True, slots=True)
class Heads:
    """Class logits (N, candidates, classes), objectness logits (N, candidates, 1) or None, and box values (N, candidates, 4, bins).

    Where classes exclude each other, the first is the background.
    """

    scores: Tensor
    objectness: Tensor | None
    boxes: Tensor
    exclusive: bool = False

    def seen(self) -> Tensor:
        """Return (N, candidates): how probably each shows an object."""
        if self.exclusive:
            return 1.0 - self.scores.detach().float().softmax(dim=2)[..., 0]
        best = self.scores.detach().float().sigmoid().amax(dim=2)
        return best if self.objectness is None else best * self.objectness.detach().float().sigmoid()[..., 0]


def heads(decoder: str, outputs: Sequence[Tensor]) -> Heads | None:
    """Return the parts of outputs that a known decoder reads; None for another decoder, or for boxes that are decoded already."""
    if decoder == YOLO and len(outputs) == 2 and all(output.ndim == 3 for output in outputs):
        boxes, scores = (output.transpose(1, 2) for output in outputs)
        return Heads(scores, None, boxes.unflatten(2, (4, boxes.shape[2] // 4)))  # type: ignore[no-untyped-call]  # untyped in torch
    if decoder == SSD:
        offsets, logits = ssd_parts(outputs)
        return Heads(logits, None, offsets[..., None], exclusive=True)
    if decoder not in (YOLO, YOLOX) or any(output.ndim != 4 for output in outputs):
        return None
    rows = torch.cat([output.flatten(2) for output in outputs], dim=2).transpose(1, 2)
    if decoder == YOLOX:
        return Heads(torch.cat([rows[..., 4:5], rows[..., 5:]], dim=2), rows[..., 4:5], rows[..., :4, None])
    bins = bins_of(outputs)
    return Heads(rows[..., 4 * bins :], None, rows[..., : 4 * bins].unflatten(2, (4, bins)))  # type: ignore[no-untyped-call]  # untyped in torch


def _scores_apart(found: Heads, wanted: Heads) -> Tensor:
    """Return the divergence of the class scores in nats, summed over the candidates."""
    if wanted.exclusive:
        mine, theirs = (part.scores.float().log_softmax(dim=2) for part in (found, wanted))
        return F.kl_div(mine, theirs, reduction="sum", log_target=True)
    return binary_divergence(found.scores.float(), wanted.scores.float()).sum()


def _boxes_apart(found: Heads, wanted: Heads) -> Tensor:
    """Return (N, candidates): the divergence of the distributions of the four sides, or the smooth L1 distance of their values."""
    if found.boxes.shape[3] > 1:
        mine, theirs = (part.boxes.float().log_softmax(dim=3) for part in (found, wanted))
        return F.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=(2, 3))
    return F.smooth_l1_loss(found.boxes.float(), wanted.boxes.float(), reduction="none").sum(dim=(2, 3))
