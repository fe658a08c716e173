"""Whether a model runs at other resolutions of its images than the one that it was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs, like, outputs_of, tensors
from paretopress.core.resampling import IMAGE_AXES, resized, scaled_side
from paretopress.intake.faithful import agrees_on


def fixed_size(model: nn.Module, names: Sequence[str] | None, module: fx.GraphModule, example: Inputs, shares: Sequence[float]) -> str:
    """Return why the resolution of a model's images cannot be a choice, or "" where it can, or where there is no other than 1.

    At each of the shares the traced model must compute what the original computes, and put out what it puts out at full size in shape.

    Args:
        module: `model` traced, with the arguments `names`. example: (N, ...) at full size.
    """
    lower = [share for share in shares if share != 1.0]
    if lower and not any(map(_is_image, tensors(example))):
        return "the model takes no images, (N, C, H, W) of floats"
    for share in lower:
        smaller = like(example, (_scaled(part, share) if _is_image(part) else part for part in tensors(example)))
        reason = agrees_on(model, names, module, smaller)
        if reason:
            return f"at {share:g} of its images' size {reason}"
        with torch.inference_mode():
            full, less = (outputs_of(module(*tensors(batch))) for batch in (example, smaller))
        if [output.shape for output in full] != [output.shape for output in less]:
            shapes = ", ".join(str(tuple(output.shape[1:])) for output in less)
            return f"at {share:g} of its images' size its outputs have other shapes, {shapes}"
    return ""


def _is_image(part: Tensor) -> bool:
    return part.ndim == IMAGE_AXES and part.is_floating_point()


def _scaled(part: Tensor, share: float) -> Tensor:
    height, width = (scaled_side(size, share) for size in part.shape[2:])
    return torch.from_numpy(resized(part.numpy(), height, width))
