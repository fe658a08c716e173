"""Batch-norm statistics computed anew over training batches: "precise BN", Wu and Johnson 2021, "Rethinking Batch in BatchNorm"."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paretopress.core.model_inputs import Inputs, tensors


@dataclass(slots=True)
class _Moments:
    """The mean and the mean square of what one layer has met, over every batch and every call."""

    count: int = 0
    mean: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, norm: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        """Add one call; the layer, of momentum 1, holds the mean and the unbiased variance of that call."""
        count = inputs[0].numel() // inputs[0].shape[1]
        self.count += count
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        self.mean = self.mean + (mean - self.mean) * (count / self.count)
        self.square = self.square + (mean.square() + variance * ((count - 1) / count) - self.square) * (count / self.count)


def norms_with_averages(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of a module that keep running averages."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None]


@torch.no_grad()
def recompute_batch_statistics(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Set each batch norm's running mean and variance to those of all `batches` together; leaves `module` in training mode.

    A layer that is called more than once, as in a head that several levels share, gets the statistics of all of its calls.
    """
    gathered = {norm: _Moments() for norm in norms_with_averages(module)}
    momenta = {norm: norm.momentum for norm in gathered}
    module.train()
    with ExitStack() as hooks:
        for norm, moments in gathered.items():
            norm.momentum = 1.0
            hooks.callback(norm.register_forward_hook(moments.add).remove)
            hooks.callback(setattr, norm, "momentum", momenta[norm])
        for batch in batches:
            module(*tensors(batch))
    for norm, moments in gathered.items():
        if moments.count:
            mean, square = torch.as_tensor(moments.mean), torch.as_tensor(moments.square)
            norm.get_buffer("running_mean").copy_(mean)
            norm.get_buffer("running_var").copy_(square - mean.square())
