"""Unstructured and N:M sparsity: weights that are zero while a student is trained. Files pack smaller, and run no faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paretopress.compress.recover.recipe import Sparsity
from paretopress.core.layer_types import Conv


def sparsity_masks(zeros: Sparsity, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the weights that zeros fall on, each with a mask of its shape: the smallest go, in the module as it is now."""
    if zeros.of:
        return [(weight, _of_each(zeros, weight.detach())) for weight in _weights(module) if weight.shape[1] % zeros.of == 0]
    weights = list(_weights(module)) if zeros.share else []
    if not weights:
        return []
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    gone = round(zeros.share * len(sizes))
    least = sizes.kthvalue(gone).values if gone else sizes.new_tensor(-1.0)
    return [(weight, weight.detach().abs() > least) for weight in weights]


def _of_each(zeros: Sparsity, weight: Tensor) -> Tensor:
    inputs_last = weight.movedim(1, -1)
    blocks = inputs_last.reshape(*inputs_last.shape[:-1], -1, zeros.of)
    mask = torch.zeros_like(blocks, dtype=torch.bool).scatter(-1, blocks.abs().topk(zeros.kept, dim=-1).indices, value=True)
    return mask.flatten(-2).movedim(-1, 1)


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
