"""Blocks that train as several branches and run as one convolution: they are fused as the model itself offers it, since that is deployed.

Source: Ding et al. 2021, "RepVGG: making VGG-style ConvNets great again", section 3.3; timm and many repositories name the method so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress

from torch import nn

from paretopress.intake.part_calls import calls_of, part_differs

_FUSING = ("reparameterize", "switch_to_deploy")
_ALLOWED = 1e-4  # of a block's output: the fused weights are rounded anew


def with_fused_blocks(model: nn.Module, run: Callable[[], object]) -> nn.Module:
    """Return a model with every block fused that offers it and then computes the same for the same inputs; changes the model.

    `run` runs the model once.
    """
    blocks = _fusible(model)
    if not blocks:
        return model
    calls = calls_of(model, list(blocks), run)
    for name, part in blocks.items():
        with suppress(Exception):  # whatever somebody's fusing raises: unfused the block computes the same
            fused = _fused(part)
            if any(part_differs(fused, *call, _ALLOWED) for call in calls[name]):
                continue
            if not name:
                return fused
            model.set_submodule(name, fused)
    return model


def _fusible(model: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost parts of a model that offer to be fused, by their paths."""
    found: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        if _offers(part) and not any(name.startswith(f"{outer}.") or not outer for outer in found):
            found[name] = part
    return found


def _offers(part: nn.Module) -> bool:
    return any(callable(getattr(part, method, None)) for method in _FUSING)


def _fused(part: nn.Module) -> nn.Module:
    made = copy.deepcopy(part)
    _fuse(made)
    for parameter in made.parameters():
        parameter.requires_grad_()
    return made.train(part.training)


def _fuse(part: nn.Module) -> None:
    method = next((getattr(part, name) for name in _FUSING if callable(getattr(part, name, None))), None)
    if method is not None:
        method()
    for child in part.children():
        _fuse(child)
