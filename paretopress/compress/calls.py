"""What layers read and put out while a batch runs, with the gradients of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, fx, nn

from paretopress.inputs import Inputs, tensors


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer: its input (N, ...) and output (N, ...), with their gradients after the backward pass."""

    input: Tensor
    output: Tensor


def differentiable(base: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose activations have gradients and whose weights have none, but for embeddings."""
    module: fx.GraphModule = copy.deepcopy(base).eval().requires_grad_(False)
    for embedding in (part for part in module.modules() if isinstance(part, nn.Embedding)):
        embedding.requires_grad_()  # tokens have no gradient, and what a layer reads must have one
    return module


def with_gradients(batch: Inputs) -> list[Tensor]:
    """Return copies of a batch's tensors that gradients reach."""
    return [part.clone().requires_grad_() if part.is_floating_point() else part for part in tensors(batch)]


@contextmanager
def recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record every call of the layers inside the block."""
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            args[0].retain_grad()
            output.retain_grad()
            calls[name].append(Call(args[0], output))
            return output.clone()  # an in-place activation behind the layer must not overwrite what was recorded

        return record

    handles = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
