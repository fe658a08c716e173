from __future__ import annotations

import pytest
import torch
from torch import nn

from paretopress.compress.factorise import break_even_rank, factorise
from paretopress.errors import CompressError


def test_break_even_rank_matches_hand_count_when_3x3() -> None:
    # dense 64*64*9 = 36864; rank r costs r*(64*9 + 64) = 640 r: 57 is below, 58 above
    assert break_even_rank(64, 64, (3, 3)) == 57
    assert break_even_rank(10, 64) == 8  # 640 dense, 74 r: 8 -> 592, 9 -> 666


@pytest.mark.parametrize(
    ("layer", "full"),
    [
        (nn.Linear(12, 7), 7),
        (nn.Conv2d(6, 10, 3, stride=2, padding=1), 10),
        (nn.Conv2d(2, 30, (3, 5), padding=(1, 2), dilation=1, bias=False), 30),
        (nn.Conv2d(8, 4, 1), 4),
        (nn.Conv1d(6, 10, 5, stride=2, padding=2), 10),
        (nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), 8),
    ],
    ids=["linear", "strided conv", "rectangular conv", "pointwise conv", "conv of one axis", "conv of three axes"],
)
def test_factorise_is_the_identity_when_the_rank_is_full(layer: nn.Module, full: int) -> None:
    x = torch.randn(3, 12) if isinstance(layer, nn.Linear) else torch.randn(3, layer.in_channels, *(9, 11, 7)[: layer.weight.ndim - 2])
    torch.testing.assert_close(factorise(layer, full)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_factorise_takes_the_spatial_svd_when_kernels_are_separable() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    column, row = torch.randn(4, 4, 3, 1), torch.randn(3)
    with torch.no_grad():  # every kernel is a column x one common row: spatial rank 4 is exact, channel rank 3 is not
        layer.weight.copy_(column * row)
    first, second = factorise(layer, 3)  # costs 3*(36 + 4) = 120: enough for spatial rank 5 at 12 + 12 each
    assert (first.kernel_size, second.kernel_size) == ((3, 1), (1, 3))
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(second(first(x)), layer(x), rtol=1e-4, atol=1e-5)


def test_factorise_takes_the_channel_svd_when_outputs_repeat() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand(8, -1, -1, -1).clone())
    first, second = factorise(layer, 1)
    assert (first.kernel_size, second.kernel_size) == ((3, 3), (1, 1))


@pytest.mark.parametrize("rank", [0, 8])
def test_factorise_raises_when_the_rank_is_out_of_range(rank: int) -> None:
    with pytest.raises(CompressError, match="1 <= rank <= 7"):
        factorise(nn.Linear(12, 7), rank)


def test_factorise_raises_when_the_convolution_is_grouped() -> None:
    with pytest.raises(CompressError, match="ungrouped"):
        factorise(nn.Conv2d(8, 8, 3, groups=8), 2)
