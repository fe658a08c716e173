"""`Tensor.unfold` as one gathering of entries, for the sizes that a model's maps have: the exporter must know them, and does not."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs
from paretopress.intake.flow.shapes import note_shapes, shape_of


class SlidingWindows(nn.Module):
    """The windows of one axis, whose entries become the last axis: (..., size, ...) -> (..., windows, ..., length)."""

    def __init__(self, axis: int, size: int, length: int, step: int) -> None:
        """Take windows of `length` entries of an axis of `size`, `step` apart."""
        super().__init__()
        self.axis, self.length = axis, length
        starts = torch.arange(0, size - length + 1, step)
        self.windows = len(starts)
        self.register_buffer("entries", (starts[:, None] + torch.arange(length)).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what `x.unfold(axis, length, step)` does."""
        taken = x.index_select(self.axis, self.get_buffer("entries"))
        return torch.unflatten(taken, self.axis, (self.windows, self.length)).movedim(self.axis + 1, -1)


def write_out_unfolds(module: fx.GraphModule, example: Inputs) -> None:
    """Put `SlidingWindows` in place of each `Tensor.unfold` along another axis than that of the items; changes `module`.

    What it is told in sizes of the model's tensors must be numbers by then, see `fold_known_sizes`.
    """
    unfolds = [node for node in module.graph.nodes if node.op == "call_method" and node.target == "unfold"]
    if not unfolds:
        return
    note_shapes(module, example)
    for node in unfolds:
        source, *given = node.args
        asked = dict(zip(("dimension", "size", "step"), given, strict=False)) | node.kwargs
        shape = shape_of(source)
        if shape is None or not all(isinstance(value, int) for value in asked.values()):
            continue
        axis = asked["dimension"] % len(shape)
        if axis:
            node.op, node.target, node.args, node.kwargs = "call_module", f"{node.name}_windows", (source,), {}
            module.add_submodule(node.target, SlidingWindows(axis, shape[axis], asked["size"], asked["step"]))
    module.recompile()
