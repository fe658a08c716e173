"""Low-rank factors of a Conv2d or Linear by a singular value decomposition of its weights; needs no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paretopress.errors import CompressError


@dataclass(frozen=True, slots=True)
class _Factors:
    first: nn.Module
    second: nn.Module
    error: float


def break_even_rank(out_channels: int, in_channels: int, kernel: tuple[int, int] = (1, 1)) -> int:
    """Return the largest rank at which the channel SVD has fewer multiply-adds than the dense layer (0 if there is none)."""
    taps = in_channels * kernel[0] * kernel[1]
    return (out_channels * taps - 1) // (out_channels + taps)


def factorise(layer: nn.Module, rank: int) -> nn.Sequential:
    """Return two layers in place of one.

    Linear (out, in): Linear(in, rank) then Linear(rank, out). Conv2d: the better, by relative error of the weights, of
    - channel SVD: k x k with `rank` outputs, then 1 x 1 (Zhang et al. 2015, "Accelerating very deep networks", section 3.1), and
    - spatial SVD: k x 1, then 1 x k, at the rank that costs no more multiply-adds (Jaderberg et al. 2014, scheme 2).
    A full rank, min(out, in * k * k), reproduces the layer up to rounding.

    Raises: CompressError: a grouped convolution, another type of layer, or a rank outside [1, full rank].
    """
    if isinstance(layer, nn.Linear):
        return _sequential(_linear_factors(layer, _checked(rank, min(layer.weight.shape), "Linear")))
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        raise CompressError(f"only Linear and ungrouped Conv2d can be factorised, but got {layer}")
    weight = layer.weight.detach()
    full = min(weight.shape[0], weight[0].numel())
    channel = _channel_factors(layer, _checked(rank, full, "Conv2d"))
    spatial = _spatial_factors(layer, rank)
    return _sequential(channel if spatial is None or channel.error <= spatial.error else spatial)


def _checked(rank: int, full: int, kind: str) -> int:
    if not 1 <= rank <= full:
        raise CompressError(f"1 <= rank <= {full} must hold, but got rank={rank} at a {kind}")
    return rank


def _sequential(factors: _Factors) -> nn.Sequential:
    return nn.Sequential(factors.first, factors.second)


def nearest_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return A (rows, rank) and B (rank, columns) with A @ B nearest to the matrix, equally scaled, and the relative Frobenius error."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    error = float((s[rank:].square().sum() / s.square().sum().clamp_min(1e-30)).sqrt())
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * vh[:rank]).to(matrix.dtype), error


def _linear_factors(layer: nn.Linear, rank: int) -> _Factors:
    a, b, error = nearest_factors(layer.weight.detach(), rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    _fill(first, b, None)
    _fill(second, a, layer.bias)
    return _Factors(first, second, error)


def _channel_factors(layer: nn.Conv2d, rank: int) -> _Factors:
    weight = layer.weight.detach()
    a, b, error = nearest_factors(weight.flatten(1), rank)
    first = _conv(layer.in_channels, rank, layer, (0, 1), bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    _fill(first, b.reshape(rank, *weight.shape[1:]), None)
    _fill(second, a.reshape(layer.out_channels, rank, 1, 1), layer.bias)
    return _Factors(first, second, error)


def _spatial_factors(layer: nn.Conv2d, channel_rank: int) -> _Factors | None:
    """Return k x 1 then 1 x k at no more multiply-adds than the channel SVD, or None for a kernel of one row or column."""
    weight = layer.weight.detach()
    out, inputs, rows, columns = weight.shape
    if rows == 1 or columns == 1:
        return None
    # per output position; the first factor strides over rows only, so it runs at stride-many columns for each output column
    stride = layer.stride[1]
    rank = channel_rank * (inputs * rows * columns + out) // (inputs * rows * stride + out * columns)
    rank = min(rank, inputs * rows, out * columns)
    if rank < 1:
        return None
    a, b, error = nearest_factors(weight.permute(0, 3, 1, 2).reshape(out * columns, inputs * rows), rank)
    first = _conv(inputs, rank, layer, (0,), bias=False)
    second = _conv(rank, out, layer, (1,), bias=layer.bias is not None)
    _fill(first, b.reshape(rank, inputs, rows, 1), None)
    _fill(second, a.reshape(out, columns, rank).permute(0, 2, 1).reshape(out, rank, 1, columns), layer.bias)
    return _Factors(first, second, error)


def _conv(inputs: int, outputs: int, like: nn.Conv2d, axes: tuple[int, ...], *, bias: bool) -> nn.Conv2d:
    """Return a convolution that keeps kernel, stride, padding and dilation of `like` along `axes` and is pointwise along the others."""

    def along(values: tuple[int, ...], neutral: int) -> tuple[int, int]:
        return (values[0] if 0 in axes else neutral, values[1] if 1 in axes else neutral)

    if isinstance(like.padding, str):
        raise CompressError(f"padding must be given in numbers, but got padding={like.padding!r}")
    return nn.Conv2d(
        inputs,
        outputs,
        along(like.kernel_size, 1),
        stride=along(like.stride, 1),
        padding=along(like.padding, 0),
        dilation=along(like.dilation, 1),
        bias=bias,
        padding_mode=like.padding_mode,
    )


def _fill(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
