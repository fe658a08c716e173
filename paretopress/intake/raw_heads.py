"""Detectors of ultralytics and of torchvision that put out their raw heads, not the boxes that they read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paretopress.errors import ModelError

_DECIMALS = 3  # of a pixel


class RawHeads(nn.Module):
    """Puts out (boxes (N, 4 * bins, cells), class logits (N, classes, cells)) of a detector, or the maps of its levels in older versions.

    Of a head that is trained for one box an object beside one for many, it is the former. See `core.box_decoding.decode_yolo`.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the heads for photos (N, 3, rows, columns) in [0, 1]."""
        return _heads(self.detector(x))


def _heads(value: Any) -> tuple[Tensor, ...]:
    found = value[-1] if isinstance(value, tuple) else value
    if isinstance(found, Mapping):
        found = found.get("one2one", found)
    if isinstance(found, Mapping) and "boxes" in found and "scores" in found:
        return found["boxes"], found["scores"]
    if isinstance(found, list | tuple) and all(isinstance(part, Tensor) and part.ndim == 4 for part in found):
        return tuple(found)
    raise ModelError(
        f"a detector must put out its raw heads beside its boxes, but got {type(value).__name__}",
        "Hand over FILE.py:FACTORY with a module that returns them.",
    )


class SsdHeads(nn.Module):
    """Puts out (offsets (N, candidates, 4), class logits (N, candidates, 1 + classes)) of an SSD of torchvision.

    Attributes:
        anchors: (candidates, 4), the default boxes: corners in pixels of photos of the size that the detector scales all to.
    """

    mean: Tensor
    std: Tensor
    anchors: Tensor

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head
        mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (detector.transform.image_mean, detector.transform.image_std))
        columns, rows = detector.transform.fixed_size
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("anchors", _default_boxes(detector, int(rows), int(columns)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heads for photos (N, 3, rows, columns) in [0, 1]."""
        found = self.head(list(self.backbone((x - self.mean) / self.std).values()))
        return found["bbox_regression"], found["cls_logits"]


def _default_boxes(detector: Any, rows: int, columns: int) -> Tensor:
    from torchvision.models.detection.image_list import ImageList

    photo = torch.zeros(1, 3, rows, columns)
    was_training = detector.training
    with torch.no_grad():
        features = list(detector.eval().backbone(photo).values())
        (boxes,) = detector.anchor_generator(ImageList(photo, [(rows, columns)]), features)
    detector.train(was_training)
    made: Tensor = boxes.float().clone()
    return made


def is_ssd(model: nn.Module) -> bool:
    """Return whether a model is an SSD of torchvision, which is not imported for that."""
    return any(f"{kind.__module__}.{kind.__name__}" == "torchvision.models.detection.ssd.SSD" for kind in type(model).__mro__)


def anchors_of(model: nn.Module) -> tuple[tuple[float, ...], ...]:
    """Return the default boxes that a detector holds as `anchors` (candidates, 4), () where it holds none."""
    anchors = getattr(model, "anchors", None)
    if not isinstance(anchors, Tensor) or anchors.ndim != 2 or anchors.shape[1] != 4:
        return ()
    return tuple(tuple(round(side, _DECIMALS) for side in box) for box in anchors.tolist())
