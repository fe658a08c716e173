from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.errors import LoweringError
from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx


class Pyramid(nn.Module):
    """A convolution, and a pooling whose windows do not divide the map."""

    def __init__(self, pool: Callable[[Tensor], Tensor], channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.pool = pool
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x)))


@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveAvgPool2d(6),
        nn.AdaptiveAvgPool2d((3, 4)),
        nn.AdaptiveMaxPool2d(6),
        lambda x: F.adaptive_avg_pool2d(x, 7),
        lambda x: F.adaptive_max_pool2d(x, (None, 7)),
        lambda x: F.adaptive_avg_pool2d(x, 24),
    ],
)
def test_export_agrees_when_an_adaptive_pooling_has_unequal_windows(pool: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 1, 20, 20)
    intake = take_in(Pyramid(pool), images)
    assert [group.name for group in intake.graph.channel_groups] == ["conv"]
    export_onnx(intake.module, images, tmp_path / "pool.onnx")


def test_export_prints_nothing_when_the_exporter_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = torch.fx.symbolic_trace(SingularValues())
    with pytest.raises(LoweringError):
        export_onnx(module, torch.randn(2, 3, 4), tmp_path / "x.onnx")
    assert "graph(" not in "".join(capfd.readouterr())


class SingularValues(nn.Module):
    """An operator that ONNX has no form for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]
