"""Feature distillation: inputs of chosen layers of a student are trained towards those of the teacher.

Source: Romero et al. 2015, "FitNets: hints for thin deep nets", section 2.2, without its regressors: a student that reads another shape
than the teacher, because channels there are gone, is not held to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from torch import Tensor, fx, nn

from paretopress.core.model_inputs import outputs_of
from paretopress.errors import ConfigError, nearest
from paretopress.tasks.base import squared_errors


def check_layers(teacher: fx.GraphModule, layers: Sequence[str]) -> None:
    """Raises ConfigError if the teacher calls no such layer."""
    known = [str(node.target) for node in teacher.graph.nodes if node.op == "call_module"]
    for layer in layers:
        if layer not in known:
            raise ConfigError(
                f"features must name layers of the model, but got {layer!r}; near it are {nearest(layer, known)}",
                "`paretopress profile` lists the layers; correct `features` in [recovery].",
            )


def outputs_and_features(
    module: nn.Module, layers: Sequence[str], inputs: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the outputs of a module, and what those of the layers read that it has; of a layer that is called twice, the last."""
    read: dict[str, Tensor] = {}
    parts = dict(module.named_modules()) if layers else {}
    with ExitStack() as hooks:
        for name in layers:
            if name in parts:
                hooks.enter_context(parts[name].register_forward_pre_hook(partial(_keep, read, name)))
        return outputs_of(module(*inputs)), read


def _keep(read: dict[str, Tensor], name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    read[name] = inputs[0]


class OutputsAndFeatures(nn.Module):
    """A teacher that puts out, behind its outputs, what the layers read, in their order."""

    def __init__(self, teacher: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.teacher, self.layers = teacher, tuple(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs and the features."""
        outputs, read = outputs_and_features(self.teacher, self.layers, inputs)
        return (*outputs, *(read[name] for name in self.layers))


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor | float:
    """Return the sum of the mean squared errors of the features that have one shape, each in units of the teacher's variance."""
    both = [name for name, read in student.items() if read.shape == teacher[name].shape]
    return squared_errors([student[name] for name in both], [teacher[name] for name in both])
