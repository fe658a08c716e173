"""A layer, or the two factors that replaced it, viewed as one matrix that least squares can replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretopress.compress.factorise import nearest_factors

_Weighted = nn.Conv2d | nn.Linear


@dataclass(frozen=True, slots=True)
class LinearView:
    """What is solved for: a matrix (outputs, features) that multiplies the patches of `window`'s input.

    Attributes:
        window: the layer whose input patches are the features.
        before: what runs before the window, or None.
        bias: the bias behind the matrix (outputs,), or None.
        rank: that the matrix must have, or None.
        matrix: as it is now.
        write: puts another matrix, of that rank, in its place.
    """

    window: _Weighted
    before: nn.Module | None
    bias: Tensor | None
    rank: int | None
    matrix: Tensor
    write: Callable[[Tensor], None]


def linear_view(module: nn.Module) -> LinearView | None:
    """Return a Conv2d, a Linear or their factors as one matrix; None for what is neither, is grouped, or pads in words or not by zeros.

    Of the factors of the channel SVD both are solved for together, of the spatial SVD's the second given the first.
    """
    if isinstance(module, nn.Sequential) and len(module) == 2:
        first, second = module[0], module[1]
        if not (_fits(first) and _fits(second)):
            return None
        assert isinstance(first, _Weighted)
        assert isinstance(second, _Weighted)
        return _second_of(first, second) if second.weight[0, 0].numel() > 1 else _product_of(first, second)
    if not _fits(module):
        return None
    assert isinstance(module, _Weighted)
    return LinearView(module, None, module.bias, None, module.weight.detach().flatten(1), _writer(module))


def _fits(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv2d) and module.groups == 1 and not isinstance(module.padding, str) and module.padding_mode == "zeros"


def _writer(layer: _Weighted) -> Callable[[Tensor], None]:
    def write(matrix: Tensor) -> None:
        with torch.no_grad():
            layer.weight.copy_(matrix.reshape(layer.weight.shape))

    return write


def _second_of(first: _Weighted, second: _Weighted) -> LinearView:
    return LinearView(second, first, second.bias, None, second.weight.detach().flatten(1), _writer(second))


def _product_of(first: _Weighted, second: _Weighted) -> LinearView:
    rank = len(first.weight)

    def write(matrix: Tensor) -> None:
        left, right, _ = nearest_factors(matrix, rank)
        _writer(second)(left)
        _writer(first)(right)

    product = second.weight.detach().flatten(1) @ first.weight.detach().flatten(1)
    return LinearView(first, None, second.bias, rank, product, write)
