"""Windows that slide over a map, as local attention takes them, export for any batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paretopress.intake.trace import take_in
from paretopress.lower.export import check_parity, export_onnx
from paretopress.lower.sliding_windows import SlidingWindows


class Local(nn.Module):
    """Two convolutions with windows of the map between them."""

    def __init__(self, windows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.windows, self.second = nn.Conv2d(3, 8, 3, padding=1), windows, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.windows(self.first(x)))


@pytest.mark.parametrize(
    "windows",
    [
        lambda x: nn.functional.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2).amax((4, 5)),
        lambda x: x.unfold(-1, 3, 1).mean(-1),
        lambda x: x.unfold(dimension=2, size=5, step=3).sum(-1),
    ],
)
def test_export_agrees_when_windows_slide(windows: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    images = torch.randn(4, 3, 12, 12)
    intake = take_in(Local(windows).eval(), images)
    export_onnx(intake.module, images, tmp_path / "model.onnx")
    for count in (1, 3):
        check_parity(intake.module, tmp_path / "model.onnx", images[:count])


@pytest.mark.parametrize(("axis", "length", "step"), [(1, 2, 1), (2, 3, 2), (3, 4, 4)])
def test_sliding_windows_are_those_of_unfold(axis: int, length: int, step: int) -> None:
    x = torch.randn(2, 5, 7, 9)
    assert torch.equal(SlidingWindows(axis, x.shape[axis], length, step)(x), x.unfold(axis, length, step))
