"""A detector of the ultralytics package that puts out its raw heads, not the boxes that it reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paretopress.errors import ModelError


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
