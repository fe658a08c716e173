"""Quantisation-aware training: chosen layers compute with inputs and weights rounded as the int8 file will round them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretopress.core.layer_types import Weighted

_ACTIVATION_LEVELS = 255


class _RoundedWeight(nn.Module):
    """Weights per output channel, symmetric; a folded batch norm scales a channel's weights and its step alike, so it changes nothing."""

    def __init__(self, highest: int) -> None:
        super().__init__()
        self._highest = highest

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().flatten(1).abs().amax(dim=1).clamp_min(1e-12) / self._highest
        return torch.fake_quantize_per_channel_affine(
            weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -self._highest, self._highest
        )


def _rounded_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the input (N, ...) rounded to 8 unsigned bits between its least and greatest value, zero included."""
    x = inputs[0]
    low, high = torch.aminmax(x.detach().float())
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / _ACTIVATION_LEVELS).clamp_min(1e-12)
    zero_point = torch.round(-low / scale).clamp(0, _ACTIVATION_LEVELS).to(torch.int32)
    rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, _ACTIVATION_LEVELS)
    return (rounded.to(x.dtype), *inputs[1:])


@contextmanager
def fake_quantised(module: nn.Module, layers: Iterable[str], *, reduce_range: bool) -> Iterator[None]:
    """Round inputs and weights of the named convolutions and Linear layers within the block; gradients pass the rounding straight through.

    Args:
        layers: module paths. A factorised layer's factors are rounded each; a name that the module does not have is passed over.
        reduce_range: weights take 7 bits, as on processors whose int8 sums saturate.
    The module's parameters and their names are the same before and after.
    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 3.
    """
    highest = 63 if reduce_range else 127
    present = dict(module.named_modules())
    chosen = [part for name in layers if name in present for part in present[name].modules() if isinstance(part, Weighted)]
    with ExitStack() as undo:
        for part in chosen:
            parametrize.register_parametrization(part, "weight", _RoundedWeight(highest))
            undo.callback(parametrize.remove_parametrizations, part, "weight", leave_parametrized=False)
            undo.callback(part.register_forward_pre_hook(_rounded_input).remove)
        yield
