"""Low-rank factors of a convolution or Linear by a singular value decomposition of its weights; needs no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretopress.core.layer_types import Conv, Weighted
from paretopress.errors import CompressError

# by the number of axes of the map
_CONVS: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# a matrix so many times longer than wide is decomposed by its small Gram matrix: 25088 x 4096 in a quarter of the time
_LONG = 2.0


def break_even_rank(out_channels: int, in_channels: int, kernel: Sequence[int] = (1, 1)) -> int:
    """Return the largest rank at which the channel SVD has fewer multiply-adds than the dense layer (0 if there is none)."""
    taps = in_channels * math.prod(kernel)
    return (out_channels * taps - 1) // (out_channels + taps)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular value decomposition u diag(s) vh of a matrix (rows, columns), in float64, s in falling order."""

    u: Tensor
    s: Tensor
    vh: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Spectrum:
        """Decompose a matrix; values below 1e-8 of the largest are lost where the Gram matrix is used."""
        wide = matrix.double()
        rows, columns = wide.shape
        if max(rows, columns) < _LONG * min(rows, columns):
            return cls(*torch.linalg.svd(wide, full_matrices=False))
        short = wide if rows <= columns else wide.T
        squares, u = torch.linalg.eigh(short @ short.T)
        s, u = squares.flip(0).clamp_min(0.0).sqrt(), u.flip(1)
        vh = (u.T @ short) / s.clamp_min(1e-12 * float(s[0]) + 1e-30)[:, None]
        return cls(u, s, vh) if rows <= columns else cls(vh.T, s, u.T)

    def factors(self, rank: int) -> tuple[Tensor, Tensor, float]:
        """Return A (rows, rank) and B (rank, columns), float64, with A @ B nearest to the matrix, equally scaled; and the error."""
        root = self.s[:rank].sqrt()
        error = float((self.s[rank:].square().sum() / self.s.square().sum().clamp_min(1e-30)).sqrt())
        return self.u[:, :rank] * root, root[:, None] * self.vh[:rank], error


def nearest_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return A (rows, rank) and B (rank, columns) with A @ B nearest to the matrix, equally scaled, and the relative Frobenius error."""
    a, b, error = Spectrum.of(matrix).factors(rank)
    return a.to(matrix.dtype), b.to(matrix.dtype), error


def factorise(layer: nn.Module, rank: int) -> nn.Sequential:
    """Return two layers in place of one; see `Factoriser`."""
    return Factoriser(layer).at(rank)


class Factoriser:
    """Makes two layers of one at any rank; the weights are decomposed once.

    Linear (out, in): Linear(in, rank) then Linear(rank, out). A convolution: the better, by relative error of the weights, of
    - channel SVD: the same kernel with `rank` outputs, then 1 x 1 (Zhang et al. 2015, "Accelerating very deep networks", section 3.1), and
    - of a Conv2d, spatial SVD: k x 1, then 1 x k, at the rank that costs no more multiply-adds (Jaderberg et al. 2014, scheme 2).
    A full rank, min(out, in * taps of the kernel), reproduces the layer up to rounding.

    Raises: CompressError: a grouped convolution, another type of layer, or a padding in words.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Decompose the weights."""
        if not isinstance(layer, Weighted) or (isinstance(layer, Conv) and layer.groups != 1):
            raise CompressError(f"only Linear and ungrouped convolutions can be factorised, but got {layer}")
        if isinstance(layer, Conv) and isinstance(layer.padding, str):
            raise CompressError(f"padding must be given in numbers, but got padding={layer.padding!r}")
        weight = layer.weight.detach()
        self._layer, self._full = layer, min(weight.shape[0], weight[0].numel())
        self._channel = Spectrum.of(weight.flatten(1))
        self._spatial: Spectrum | None = None
        if isinstance(layer, nn.Conv2d) and min(weight.shape[2:]) > 1:
            out, inputs, rows, columns = weight.shape
            self._spatial = Spectrum.of(weight.permute(0, 3, 1, 2).reshape(out * columns, inputs * rows))

    def at(self, rank: int) -> nn.Sequential:
        """Return the two layers of a rank; raises CompressError for a rank outside [1, full rank]."""
        if not 1 <= rank <= self._full:
            raise CompressError(f"1 <= rank <= {self._full} must hold, but got rank={rank} at a {type(self._layer).__name__}")
        if isinstance(self._layer, nn.Linear):
            return self._linear(rank)
        spatial_rank = self._spatial_rank(rank)
        if self._spatial is None or spatial_rank < 1 or self._channel.factors(rank)[2] <= self._spatial.factors(spatial_rank)[2]:
            return self._by_channels(rank)
        return self._by_space(spatial_rank)

    def _linear(self, rank: int) -> nn.Sequential:
        layer = self._layer
        assert isinstance(layer, nn.Linear)
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
        a, b, _ = self._channel.factors(rank)
        return _filled(first, b, second, a, layer.bias)

    def _by_channels(self, rank: int) -> nn.Sequential:
        layer = self._layer
        assert isinstance(layer, Conv)
        shape = layer.weight.shape
        axes = tuple(range(len(shape) - 2))
        first = _conv(layer.in_channels, rank, layer, axes, bias=False)
        second = _CONVS[len(axes)](rank, layer.out_channels, 1, bias=layer.bias is not None)
        a, b, _ = self._channel.factors(rank)
        return _filled(first, b.reshape(rank, *shape[1:]), second, a.reshape(layer.out_channels, rank, *[1] * len(axes)), layer.bias)

    def _by_space(self, rank: int) -> nn.Sequential:
        layer = self._layer
        assert isinstance(layer, nn.Conv2d)
        assert self._spatial is not None
        out, inputs, rows, columns = layer.weight.shape
        first = _conv(inputs, rank, layer, (0,), bias=False)
        second = _conv(rank, out, layer, (1,), bias=layer.bias is not None)
        a, b, _ = self._spatial.factors(rank)
        lying = a.reshape(out, columns, rank).permute(0, 2, 1).reshape(out, rank, 1, columns)
        return _filled(first, b.reshape(rank, inputs, rows, 1), second, lying, layer.bias)

    def _spatial_rank(self, channel_rank: int) -> int:
        """Return the rank at which k x 1 then 1 x k has no more multiply-adds than the channel SVD, 0 if there is none."""
        if self._spatial is None:
            return 0
        out, inputs, rows, columns = self._layer.weight.shape
        # per output position; the first factor strides over rows only, so it runs at stride-many columns for each output column
        stride = self._layer.stride[1] if isinstance(self._layer, nn.Conv2d) else 1
        rank = channel_rank * (inputs * rows * columns + out) // (inputs * rows * stride + out * columns)
        return min(rank, inputs * rows, out * columns)


def _conv(inputs: int, outputs: int, like: Conv, axes: tuple[int, ...], *, bias: bool) -> Conv:
    """Return a convolution that keeps kernel, stride, padding and dilation of `like` along `axes` and is pointwise along the others."""

    def along(values: Sequence[int], neutral: int) -> tuple[int, ...]:
        return tuple(value if axis in axes else neutral for axis, value in enumerate(values))

    assert not isinstance(like.padding, str)
    return _CONVS[len(like.kernel_size)](
        inputs,
        outputs,
        along(like.kernel_size, 1),
        stride=along(like.stride, 1),
        padding=along(like.padding, 0),
        dilation=along(like.dilation, 1),
        bias=bias,
        padding_mode=like.padding_mode,
    )


def _filled(first: Weighted, b: Tensor, second: Weighted, a: Tensor, bias: Tensor | None) -> nn.Sequential:
    with torch.no_grad():
        first.weight.copy_(b)
        second.weight.copy_(a)
        if bias is not None and second.bias is not None:
            second.bias.copy_(bias)
    return nn.Sequential(first, second)
