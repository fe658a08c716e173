"""How far compressed modules are from the original on the same items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from paretopress.core.model_inputs import Inputs, outputs_in_pieces
from paretopress.tasks.base import Task


def divergence_from(base: nn.Module, inputs: Inputs, task: Task) -> Callable[[nn.Module], float]:
    """Return what tells the task's divergence of a module's outputs from those of `base`, which runs once; both in eval mode.

    Args:
        inputs: a batch of items (N, ...).
    """
    wanted = outputs_in_pieces(base, inputs)

    def divergence(module: nn.Module) -> float:
        with torch.inference_mode():
            return float(task.divergence(outputs_in_pieces(module, inputs), wanted))

    return divergence
