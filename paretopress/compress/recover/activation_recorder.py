"""Record inputs and outputs of layers, with the gradients of both, while a model runs on a few items."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs, outputs_of, split, tensors
from paretopress.tasks.base import Task

# items that are run at a time
BATCH = 64


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of a layer: its input (N, ...) and output (N, ...)."""

    input: Tensor
    output: Tensor

    def input_gradient(self) -> Tensor:
        """Return the gradient of the input; zeros where no output that is scored or held to the teacher depends on it."""
        return torch.zeros_like(self.input) if self.input.grad is None else self.input.grad

    def output_gradient(self) -> Tensor:
        """Return the gradient of the output; zeros as for the input."""
        return torch.zeros_like(self.output) if self.output.grad is None else self.output.grad


Calls = Mapping[str, Sequence[RecordedCall]]


def differentiable(base: fx.GraphModule) -> fx.GraphModule:
    """Return a copy whose activations have gradients and whose weights have none, but for embeddings."""
    module: fx.GraphModule = copy.deepcopy(base).eval().requires_grad_(False)
    for embedding in (part for part in module.modules() if isinstance(part, nn.Embedding)):
        embedding.requires_grad_()  # tokens have no gradient, and what a layer reads must have one
    return module


def record_calls(module: fx.GraphModule, layers: Mapping[str, nn.Module], inputs: Inputs, task: Task, seed: int) -> Iterator[Calls]:
    """Yield for each batch what some layers of a `differentiable` module were called with.

    The gradients are those of minus the log-likelihood of targets drawn from the module's own prediction.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in split(inputs, BATCH):
        with _recorded(layers) as calls:
            task.sampled_nll(outputs_of(module(*_with_gradients(batch))), generator).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        yield calls


def _with_gradients(batch: Inputs) -> list[Tensor]:
    return [part.clone().requires_grad_() if part.is_floating_point() else part for part in tensors(batch)]


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[RecordedCall]]]:
    """Record every call of the layers inside the block."""
    calls: dict[str, list[RecordedCall]] = {name: [] for name in layers}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def record(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            args[0].retain_grad()
            output.retain_grad()
            calls[name].append(RecordedCall(args[0], output))
            return output.clone()  # an in-place activation behind the layer must not overwrite what was recorded

        return record

    handles = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
