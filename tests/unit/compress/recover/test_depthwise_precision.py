"""Depthwise convolutions that are trained in float32 under bfloat16 autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from paretopress.compress.recover import finetune
from paretopress.compress.recover.depthwise_precision import in_float32, slow_in_bf16
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.recipe import Recipe

CPU = torch.device("cpu")


class Seen(nn.Conv2d):
    """A convolution that notes the type it is run in."""

    def __init__(self, *args: int, **options: int) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.types: list[tuple[torch.dtype, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.types.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return super().forward(x)


def network() -> nn.Sequential:
    """Return a plain convolution, a depthwise one of kernel 3 without a stride, and three that bfloat16 slows down."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        Seen(8, 8, 3, groups=8, padding=1),
        Seen(8, 8, 3, groups=8, padding=1, stride=2),
        Seen(8, 8, 5, groups=8, padding=2),
        Seen(8, 8, 3, groups=8, padding=2, dilation=2),
        nn.Conv2d(8, 8, 5, groups=4, padding=2),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


def test_slow_in_bf16_finds_strided_dilated_and_wide_depthwise_layers() -> None:
    layers = network()
    assert slow_in_bf16(layers) == [layers[2], layers[3], layers[4]]
    assert slow_in_bf16(nn.Conv1d(4, 4, 3, stride=2, groups=4))
    assert not slow_in_bf16(nn.Conv2d(1, 8, 5, groups=1))  # one channel: nothing is depthwise


def test_in_float32_computes_in_float_and_puts_out_the_type_taken() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 8, 5, groups=8), torch.randn(2, 8, 9, 9).bfloat16()
    with in_float32([layer], CPU), torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, layer(x.float()).bfloat16())
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("bf16", [True, False])
def test_run_trains_slow_depthwise_layers_in_float(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "trains_faster_in_bf16", lambda _: bf16)
    student = network()
    student(torch.zeros(1, 3, 32, 32))
    train = TensorDataset(torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))
    Recovery(student, train, Recipe(batch_size=8, calibration_batches=0)).run(student, temperature=4.0, alpha=0.9, steps=1, seed=0)
    kinds = [layer.types[-1] for layer in student if isinstance(layer, Seen)]
    assert kinds == [(torch.bfloat16, True) if bf16 else (torch.float32, False), *[(torch.float32, False)] * 3]
