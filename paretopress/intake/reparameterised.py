"""Blocks that train as several branches and run as one convolution: they are fused as the model itself offers it, since that is deployed.

Source: Ding et al. 2021, "RepVGG: making VGG-style ConvNets great again", section 3.3; timm and many repositories name the method so.
"""

from __future__ import annotations

import copy
from contextlib import suppress

from torch import nn

_FUSING = ("reparameterize", "switch_to_deploy")


def fusible_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost parts of a model that offer to be fused, by their paths."""
    found: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        offers = any(callable(getattr(part, method, None)) for method in _FUSING)
        if offers and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found[name] = part
    return found


def fused_block(part: nn.Module) -> nn.Module:
    """Return a fused copy of such a part, or the part itself where it does not let itself be fused."""
    made = copy.deepcopy(part)
    with suppress(Exception):  # whatever somebody's fusing raises: unfused the block computes the same
        _fuse(made)
        for parameter in made.parameters():
            parameter.requires_grad_()
        return made.train(part.training)
    return part


def _fuse(part: nn.Module) -> None:
    method = next((getattr(part, name) for name in _FUSING if callable(getattr(part, name, None))), None)
    if method is not None:
        method()
    for child in part.children():
        _fuse(child)
