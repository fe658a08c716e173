"""Weights that are set to zero and stay so while a student is trained: the file gets no faster, and smaller once it is packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretopress.core.layer_types import Conv
from paretopress.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Zeros:
    """Which weights of ungrouped convolutions and Linear layers are zero: a share of all, or all but `kept` of each `of` inputs.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3; Mishra et al. 2021,
    "Accelerating sparse deep neural networks", section 3, for 2 of 4.
    """

    share: float = 0.0
    kept: int = 0
    of: int = 0

    @classmethod
    def parse(cls, value: float | str) -> Zeros:
        """Return what a share in [0, 1) or a pattern "N:M" says, N weights kept of M; raises ConfigError."""
        if isinstance(value, str):
            kept, _, of = value.partition(":")
            if kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of):
                return cls(kept=int(kept), of=int(of))
        elif 0.0 <= value < 1.0:
            return cls(share=value)
        raise ConfigError(f"zeros must be a share of the weights in [0, 1), or a pattern such as 2:4, but got {value!r}")

    def masks(self, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return the weights that zeros fall on, each with a mask of its shape: the smallest go, in the module as it is now."""
        if self.of:
            return [(weight, self._of_each(weight.detach())) for weight in _weights(module) if weight.shape[1] % self.of == 0]
        weights = list(_weights(module)) if self.share else []
        if not weights:
            return []
        sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
        gone = round(self.share * len(sizes))
        least = sizes.kthvalue(gone).values if gone else sizes.new_tensor(-1.0)
        return [(weight, weight.detach().abs() > least) for weight in weights]

    def _of_each(self, weight: Tensor) -> Tensor:
        inputs_last = weight.movedim(1, -1)
        blocks = inputs_last.reshape(*inputs_last.shape[:-1], -1, self.of)
        mask = torch.zeros_like(blocks, dtype=torch.bool).scatter(-1, blocks.abs().topk(self.kept, dim=-1).indices, value=True)
        return mask.flatten(-2).movedim(-1, 1)


NO_ZEROS = Zeros()


def _weights(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        if isinstance(part, nn.Linear) or (isinstance(part, Conv) and part.groups == 1):
            rounded = parametrize.is_parametrized(part, "weight")  # while it is trained with rounding
            yield part.parametrizations.weight.original if rounded else part.weight  # type: ignore[union-attr, misc]  # untyped in torch


@contextmanager
def held(masks: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Set to zero what the masks leave out, and keep it there while the block trains.

    Their gradients are zero, too: they would count when gradients are clipped, and slow the others down.
    """
    with torch.no_grad():
        for weight, mask in masks:
            weight.mul_(mask)
    with ExitStack() as hooks:
        for weight, mask in masks:
            hooks.callback(weight.register_hook(mask.mul).remove)  # type: ignore[no-untyped-call]  # untyped in torch
        yield
