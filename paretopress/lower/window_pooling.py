"""Adaptive pooling over windows of unequal size, written out for the sizes that a model's maps have: ONNX has no operator for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.core.model_inputs import Inputs, tensors

Windows = tuple[tuple[int, int], ...]
_REDUCTIONS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), torch.mean),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), torch.mean),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), torch.amax),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d), torch.amax),
}


class WindowPooling(nn.Module):
    """The mean or the maximum over windows, one axis after another: (N, C, sizes...) -> (N, C, numbers of windows...)."""

    def __init__(self, reduction: Callable[..., Tensor], windows: tuple[Windows, ...]) -> None:
        """Pool by `torch.mean` or `torch.amax`; `windows` are the (start, size) of each spatial axis."""
        super().__init__()
        self.reduction = reduction
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps."""
        for axis, windows in enumerate(self.windows, -len(self.windows)):
            x = torch.cat([self.reduction(x.narrow(axis, start, size), axis, keepdim=True) for start, size in windows], axis)
        return x


def windows_of(size: int, count: int) -> Windows:
    """Return the (start, size) of the `count` windows of an axis, as PyTorch's adaptive pooling takes them: they overlap by one at most."""
    edges = [(index * size // count, -(-(index + 1) * size // count)) for index in range(count)]
    return tuple((start, end - start) for start, end in edges)


def write_out_poolings(module: fx.GraphModule, example: Inputs) -> None:
    """Put a `WindowPooling` in place of each adaptive pooling whose output size does not divide its maps; changes `module`."""
    poolings = {node: reduction for node in module.graph.nodes if (reduction := _REDUCTIONS.get(_called(module, node))) is not None}
    if not poolings:
        return
    sizes = _InputSizes(module, frozenset(poolings))
    with torch.inference_mode():
        sizes.run(*tensors(example))
    for node, (before, after) in sizes.found.items():
        if any(size % count for size, count in zip(before, after, strict=True)):
            node.op, node.target, node.args, node.kwargs = "call_module", f"{node.name}_windows", (_input(node),), {}
            pooling = WindowPooling(poolings[node], tuple(windows_of(size, count) for size, count in zip(before, after, strict=True)))
            module.add_submodule(node.target, pooling)
    module.recompile()


class _InputSizes(fx.Interpreter):
    """Runs a module and gathers the spatial sizes of the inputs and the outputs of some nodes."""

    def __init__(self, module: fx.GraphModule, nodes: frozenset[fx.Node]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.found: dict[fx.Node, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note its sizes."""
        value = super().run_node(n)
        if n in self.nodes and isinstance(value, Tensor):
            self.found[n] = tuple(self.env[_input(n)].shape[2:]), tuple(value.shape[2:])
        return value


def _called(module: fx.GraphModule, node: fx.Node) -> Any:
    return type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target


def _input(node: fx.Node) -> fx.Node:
    given = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(given, fx.Node)
    return given
