"""Predict the damage of every choice of a plan from the Fisher information: one backward pass per batch over a few items.

A change that moves a layer's input or output by d changes the model's outputs by a Kullback-Leibler divergence of about
1/2 E[(g . d)^2], where g is the gradient of the log-likelihood of a label drawn from the model's own prediction: the Fisher information
along d. Sources: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", section 2.1; Martens 2020, "New
insights and perspectives on the natural gradient method", section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.compress.factorise import Factoriser
from paretopress.compress.prune.channels import dropped_inputs
from paretopress.compress.recover.activation_recorder import BATCH, Calls, RecordedCall, differentiable, record_calls
from paretopress.core.layer_types import Conv, Weighted
from paretopress.core.model_graph import ModelGraph
from paretopress.core.model_inputs import Inputs, size_of
from paretopress.errors import CompressError
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

_TOP_1 = Classification()


@dataclass(frozen=True, slots=True)
class Asked:
    """The choices to judge: group -> channels kept, layer -> ranks, layer -> bits of its weights."""

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bits: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Damages:
    """Predicted divergence, in nats, of each choice made alone, from so many items; keys as in `Asked`."""

    kept: Mapping[str, Mapping[int, float]]
    ranks: Mapping[str, Mapping[int, float]]
    bits: Mapping[str, Mapping[int, float]]
    items: int = 0


_Product = Callable[[Calls], Tensor]
# a layer's input -> what a change adds to its output
_Added = Callable[[Tensor], Tensor]


def fisher_damages(
    base: fx.GraphModule,
    graph: ModelGraph,
    inputs: Inputs,
    asked: Asked,
    *,
    seed: int = 0,
    task: Task = _TOP_1,
    deadline: Deadline = NO_DEADLINE,
) -> Damages:
    """Return the predicted damage of every choice asked for; the module is not changed.

    Args:
        inputs: items as the model was trained on. deadline: no batch of them is begun after it, but for the first.
    """
    module = differentiable(base)
    layers = {name: child for name, child in module.named_modules() if isinstance(child, Weighted)}
    products = {
        "kept": _pruning_products(base, graph, asked.kept),
        "ranks": _weight_products(layers, asked.ranks, _factored),
        "bits": _weight_products(layers, asked.bits, _rounded),
    }
    totals = {kind: {name: dict.fromkeys(by_value, 0.0) for name, by_value in by_name.items()} for kind, by_name in products.items()}
    seen = 0
    for calls in record_calls(module, layers, inputs, task, seed):
        for kind, by_name in products.items():
            for name, by_value in by_name.items():
                for value, product in by_value.items():
                    totals[kind][name][value] += 0.5 * float(product(calls).square().sum())
        seen = min(seen + BATCH, size_of(inputs))
        if deadline.passed:
            break
    means = {
        kind: {name: {value: total / seen for value, total in by_value.items()} for name, by_value in by_name.items()}
        for kind, by_name in totals.items()
    }
    return Damages(**means, items=seen)


def rounding_change(layer: nn.Module, bits: int) -> Tensor:
    """Return what symmetric rounding per output channel to `bits` adds to a layer's weights, of their shape."""
    weight = _weight(layer)
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    change: Tensor = (weight / scale).round() * scale - weight
    return change


def _rounded(layer: nn.Module) -> Callable[[int], _Added]:
    """Return what tells, for a width in bits, what rounding the weights adds to a layer's output."""

    def at(bits: int) -> _Added:
        # the change of the weights is made anew for every batch: kept for all layers and widths it would be several times the model
        return lambda x: _applied(layer, rounding_change(layer, bits), x)

    return at


def _factored(layer: nn.Module) -> Callable[[int], _Added]:
    """Return what tells, for a rank, what factors in place of the weights add to a layer's output."""
    made = Factoriser(layer)

    def at(rank: int) -> _Added:
        factors = made.at(rank).requires_grad_(False)
        return lambda x: factors(x) - layer(x)

    return at


def _applied(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return the output of a layer with other weights and no bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(layer, Conv)
    added: Tensor = layer._conv_forward(x, weight, None)
    return added


def _weight(layer: nn.Module) -> Tensor:
    if not isinstance(layer, Weighted):
        raise CompressError(f"only convolutions and Linear have weights to judge, but got {type(layer).__name__}")
    weight: Tensor = layer.weight.detach()
    return weight


def _pruning_products(module: nn.Module, graph: ModelGraph, asked: Mapping[str, Sequence[int]]) -> dict[str, dict[int, _Product]]:
    groups = {group.name: group for group in graph.channel_groups}
    layers = dict(module.named_modules())

    def product(lost: Mapping[str, list[int]]) -> _Product:
        return lambda calls: sum(
            (_input_product(layers[name], call, indices) for name, indices in lost.items() for call in calls[name]), start=torch.zeros(1)
        )

    return {
        name: {keep: product(lost) for keep, lost in dropped_inputs(module, groups[name], keeps).items()} for name, keeps in asked.items()
    }


def _input_product(layer: nn.Module, call: RecordedCall, channels: list[int]) -> Tensor:
    """Return (N,): gradient times input, over some input channels; minus this is the first-order change when they are silenced."""
    product = call.input_gradient() * call.input.detach()
    return product.index_select(-1 if isinstance(layer, nn.Linear) else 1, torch.tensor(channels)).flatten(1).sum(1)


def _weight_products(
    layers: Mapping[str, nn.Module], asked: Mapping[str, Sequence[int]], changes: Callable[[nn.Module], Callable[[int], _Added]]
) -> dict[str, dict[int, _Product]]:
    def product(name: str, added: _Added) -> _Product:
        return lambda calls: sum((_output_product(call, added) for call in calls[name]), start=torch.zeros(1))

    found: dict[str, dict[int, _Product]] = {}
    for name, values in asked.items():
        change = changes(layers[name])
        found[name] = {value: product(name, change(value)) for value in values}
    return found


def _output_product(call: RecordedCall, added: _Added) -> Tensor:
    """Return (N,): gradient of the output times what a change adds to the output."""
    with torch.no_grad():
        return (call.output_gradient() * added(call.input)).flatten(1).sum(1)
