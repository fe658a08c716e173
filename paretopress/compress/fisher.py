"""What each choice of a plan would cost in accuracy, all of them from one backward pass per batch over a few images.

A change that moves a layer's input or output by d changes the model's outputs by a Kullback-Leibler divergence of about
1/2 E[(g . d)^2], where g is the gradient of the log-likelihood of a label drawn from the model's own prediction: the Fisher information
along d. Sources: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning", section 2.1; Martens 2020, "New
insights and perspectives on the natural gradient method", section 5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.compress.factorise import factorise
from paretopress.compress.pruning import dropped_inputs
from paretopress.errors import CompressError
from paretopress.graph import ModelGraph

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """The choices to judge: group -> channels kept, layer -> ranks, layer -> bits of its weights."""

    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bits: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Damages:
    """Predicted divergence, in nats, of each choice made alone; keys as in `Asked`."""

    kept: Mapping[str, Mapping[int, float]]
    ranks: Mapping[str, Mapping[int, float]]
    bits: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a layer: its input (N, ...) and output (N, ...), with their gradients after the backward pass."""

    input: Tensor
    output: Tensor


_Calls = Mapping[str, Sequence[_Call]]
_Product = Callable[[_Calls], Tensor]


def fisher_damages(base: fx.GraphModule, graph: ModelGraph, images: Tensor, asked: Asked, *, seed: int = 0) -> Damages:
    """Return the predicted damage of every choice asked for; the module is not changed.

    Args:
        images: (N, C, H, W) float32, as the model was trained on.
    """
    module = copy.deepcopy(base).eval().requires_grad_(False)
    layers = {name: child for name, child in module.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)}
    products = {
        "kept": _pruning_products(base, graph, asked.kept),
        "ranks": _weight_products(layers, asked.ranks, _factor_change),
        "bits": _weight_products(layers, asked.bits, rounding_change),
    }
    totals = {kind: {name: dict.fromkeys(by_value, 0.0) for name, by_value in by_name.items()} for kind, by_name in products.items()}
    generator = torch.Generator().manual_seed(seed)
    for batch in torch.split(images, _BATCH):
        with _recorded(layers) as calls:
            logits = module(batch.clone().requires_grad_())
            labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator).squeeze(1)
            F.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]  # untyped in torch
        for kind, by_name in products.items():
            for name, by_value in by_name.items():
                for value, product in by_value.items():
                    totals[kind][name][value] += 0.5 * float(product(calls).square().sum()) / len(images)
    return Damages(**totals)


def rounding_change(layer: nn.Module, bits: int) -> Tensor:
    """Return what symmetric rounding per output channel to `bits` adds to a layer's weights, of their shape."""
    weight = _weight(layer)
    scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    change: Tensor = (weight / scale).round() * scale - weight
    return change


def _factor_change(layer: nn.Module, rank: int) -> Tensor:
    """Return what factors of a rank add to a layer's weights; the channel SVD or the spatial one, whichever `factorise` takes."""
    first, second = factorise(layer, rank)
    weight = _weight(layer)
    if isinstance(layer, nn.Linear):
        return _weight(second) @ _weight(first) - weight
    if second.kernel_size == (1, 1):
        return torch.einsum("or,rikl->oikl", _weight(second)[:, :, 0, 0], _weight(first)) - weight
    return torch.einsum("orl,rik->oikl", _weight(second)[:, :, 0, :], _weight(first)[:, :, :, 0]) - weight


def _weight(layer: nn.Module) -> Tensor:
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise CompressError(f"only Linear and Conv2d have weights to judge, but got {type(layer).__name__}")
    weight: Tensor = layer.weight.detach()
    return weight


def _pruning_products(module: nn.Module, graph: ModelGraph, asked: Mapping[str, Sequence[int]]) -> dict[str, dict[int, _Product]]:
    example = torch.zeros(2, *graph.input_shape)
    groups = {group.name: group for group in graph.channel_groups}
    layers = dict(module.named_modules())

    def product(lost: Mapping[str, list[int]]) -> _Product:
        return lambda calls: sum(
            (_input_product(layers[name], call, indices) for name, indices in lost.items() for call in calls[name]), start=torch.zeros(1)
        )

    return {
        name: {keep: product(lost) for keep, lost in dropped_inputs(module, groups[name], keeps, example).items()}
        for name, keeps in asked.items()
    }


def _input_product(layer: nn.Module, call: _Call, channels: list[int]) -> Tensor:
    """Return (N,): gradient times input, over some input channels; minus this is the first-order change when they are silenced."""
    assert call.input.grad is not None
    product = call.input.grad * call.input.detach()
    return product.index_select(-1 if isinstance(layer, nn.Linear) else 1, torch.tensor(channels)).flatten(1).sum(1)


def _weight_products(
    layers: Mapping[str, nn.Module], asked: Mapping[str, Sequence[int]], change_of: Callable[[nn.Module, int], Tensor]
) -> dict[str, dict[int, _Product]]:
    def product(name: str, change: Tensor) -> _Product:
        return lambda calls: sum((_output_product(layers[name], call, change) for call in calls[name]), start=torch.zeros(1))

    return {name: {value: product(name, change_of(layers[name], value)) for value in values} for name, values in asked.items()}


def _output_product(layer: nn.Module, call: _Call, change: Tensor) -> Tensor:
    """Return (N,): gradient of the output times what `change` of the weights adds to the output."""
    assert call.output.grad is not None
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            added = F.linear(call.input, change)
        else:
            assert isinstance(layer, nn.Conv2d)
            added = layer._conv_forward(call.input, change, None)
        return (call.output.grad * added).flatten(1).sum(1)


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[_Call]]]:
    """Record every call of the layers inside the block."""
    calls: dict[str, list[_Call]] = {name: [] for name in layers}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            args[0].retain_grad()
            output.retain_grad()
            calls[name].append(_Call(args[0], output))
            return output.clone()  # an in-place activation behind the layer must not overwrite what was recorded

        return record

    handles = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
