"""Multiply-adds and parameters of a torch module, counted by fvcore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from paretopress.core.layer_types import Weighted
from paretopress.core.model_inputs import Inputs, taken, tensors
from paretopress.errors import ModelError
from paretopress.intake.onnx_module import onnx_graph_in
from paretopress.system.fvcore_import import FlopCountAnalysis


@dataclass(frozen=True, slots=True)
class Macs:
    """Counts for one input.

    Attributes:
        macs: multiply-adds; fvcore counts one fused multiply-add as one FLOP, and counts normalisation and pooling too.
        params: elements of all parameters, shared ones once.
        uncounted: operators that fvcore has no count for, sorted; cheap elementwise ones as a rule.
    """

    macs: int
    params: int
    uncounted: tuple[str, ...]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode


def _analysis(module: nn.Module, example: Inputs) -> FlopCountAnalysis:
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    one = tuple(part.to(device) for part in tensors(taken(example, 1)))
    analysis = FlopCountAnalysis(module, one)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    try:
        with torch.no_grad():
            analysis.total()
    except Exception as error:  # whatever the user's forward raises
        shapes = ", ".join(str(tuple(part.shape)) for part in one)
        raise ModelError(
            f"the model must trace on an input of shape {shapes}, but got {type(error).__name__}: {error}",
            "Give an example as the model takes it.",
        ) from error
    return analysis


def count_macs(module: nn.Module, example: Inputs) -> Macs:
    """Return the counts of one forward pass in eval mode.

    Args:
        example: a batch of inputs; its first item counts.
    Raises: ModelError: the module does not trace on that input.
    Invariant: every submodule is left in the training mode it came in.
    """
    file = onnx_graph_in(module)
    if file is not None:
        layers = file.layers(tensors(taken(example, 1)))
        return Macs(sum(layer.macs for layer in layers), sum(layer.params for layer in layers), ())
    with _evaluating(module):
        analysis = _analysis(module, example)
        return Macs(
            macs=int(analysis.total()),
            params=sum(parameter.numel() for parameter in module.parameters()),
            uncounted=tuple(sorted(analysis.unsupported_ops())),
        )


def macs_by_layer(module: nn.Module, example: Inputs) -> dict[str, int]:
    """Return module path -> multiply-adds of every convolution and Linear, in the module's order; 0 for one that is not called.

    Raises: ModelError: the module does not trace on that input.
    """
    with _evaluating(module):
        by_module = _analysis(module, example).by_module()
    return {name: int(by_module[name]) for name, part in module.named_modules() if isinstance(part, Weighted)}
