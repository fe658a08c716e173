"""Adaptive pooling over windows of unequal size, written out for the sizes that a model's maps have: ONNX has no operator for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.core.model_inputs import Inputs
from paretopress.intake.flow.shapes import note_shapes, shape_of

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
    note_shapes(module, example)
    for node, reduction in poolings.items():
        before, after = shape_of(_input(node)), shape_of(node)
        if before is None or after is None or not any(size % count for size, count in zip(before[2:], after[2:], strict=True)):
            continue
        node.op, node.target, node.args, node.kwargs = "call_module", f"{node.name}_windows", (_input(node),), {}
        pooling = WindowPooling(reduction, tuple(windows_of(size, count) for size, count in zip(before[2:], after[2:], strict=True)))
        module.add_submodule(node.target, pooling)
    module.recompile()


def _called(module: fx.GraphModule, node: fx.Node) -> Any:
    return type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target


def _input(node: fx.Node) -> fx.Node:
    given = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(given, fx.Node)
    return given
