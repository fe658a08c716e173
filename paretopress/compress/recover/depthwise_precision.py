"""Depthwise convolutions that a CPU trains faster in float32, though the rest of the model trains faster under bfloat16 autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from paretopress.core.layer_types import Conv

_QUICK_KERNEL = 3


def slow_in_bf16(module: nn.Module) -> list[Conv]:
    """Return the depthwise convolutions with a stride, a dilation or a kernel above 3.

    oneDNN has no quick backward pass for them in bfloat16. Forward and backward of 32 items on one thread of an AMD EPYC with avx512_bf16,
    torch 2.14, bfloat16 against float32: 144 channels at 35x35, kernel 5, stride 2, 140 and 26 ms; 144 at 32x32, kernel 3, stride 2, 66
    and 7 ms, dilation 2 135 and 52 ms; 672 at 12x12, kernel 5, 59 and 22 ms. Kernel 3 without a stride takes 10 and 32 ms, and every other
    convolution tried is quicker in bfloat16 too.
    """
    return [part for part in module.modules() if isinstance(part, Conv) and _depthwise(part) and _unusual(part)]


def _depthwise(layer: Conv) -> bool:
    return layer.groups == layer.in_channels > 1


def _unusual(layer: Conv) -> bool:
    return max(*layer.stride, *layer.dilation) > 1 or max(layer.kernel_size) > _QUICK_KERNEL


@contextmanager
def in_float32(layers: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Run layers in float32 inside the block, whatever autocast says; what they put out has the type of what they take."""
    with ExitStack() as undo:
        for layer in layers:
            layer.forward = _without_autocast(layer.forward, device)
            undo.callback(delattr, layer, "forward")
        yield


def _without_autocast(forward: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return forward(x.float()).to(x.dtype)

    return run
