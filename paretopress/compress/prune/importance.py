"""Importance of the blocks of a channel group by the weights that a block couples.

Source: Fang et al. 2023, "DepGraph: towards any structural pruning", section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from paretopress.compress.prune.surgery import Convolution, Transposed
from paretopress.core.model_graph import ChannelGroup, Part, Role

_Norm = nn.modules.batchnorm._BatchNorm


def magnitudes(module: nn.Module, group: ChannelGroup, power: int = 2) -> Tensor:
    """Return (blocks,) the sum of absolute weights to a power in a row, a column or a scale of a block, the mean over all that it couples.

    The blocks' mean is 1.
    """
    found = torch.zeros(group.blocks)
    for part in group.parts:
        for entries in _entries(module, part):
            found += entries.abs().pow(power).sum(dim=1)[torch.tensor(part.index)].reshape(group.blocks, -1).mean(dim=1)
    return found / found.mean().clamp_min(1e-12)


def batch_norm_scales(module: nn.Module, group: ChannelGroup) -> Tensor | None:
    """Return (blocks,) the mean absolute scale of the batch norms of a block, None where the group has none.

    Source: Liu et al. 2017, "Learning efficient convolutional networks through network slimming".
    """
    scales = []
    for part in group.parts:
        norm = _module(module, part.path)
        if isinstance(norm, _Norm) and norm.affine:
            scales.append(norm.weight.detach().abs()[torch.tensor(part.index)].reshape(group.blocks, -1).mean(dim=1))
    return torch.stack(scales).mean(dim=0) if scales else None


def _entries(module: nn.Module, part: Part) -> Iterator[Tensor]:
    """Yield (entries, weights): what each entry of a part holds."""
    layer = _module(module, part.path)
    if isinstance(layer, nn.Linear) or (isinstance(layer, Convolution) and layer.groups == 1):
        weight = layer.weight.detach()
        by_rows = (part.role is Role.OUTPUTS) != isinstance(layer, Transposed)
        yield (weight if by_rows else weight.transpose(0, 1)).flatten(1)
    elif isinstance(layer, Convolution):
        if part.role is Role.OUTPUTS and not isinstance(layer, Transposed):
            yield layer.weight.detach().flatten(1)
    elif isinstance(layer, _Norm | nn.LayerNorm | nn.GroupNorm) and layer.weight is not None:
        yield layer.weight.detach()[:, None]


def _module(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
