"""`Tensor.unfold` as one gathering of entries, for the sizes that a model's maps have: the exporter must know them, and does not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs, tensors

_UNFOLD = "unfold"


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
    """Put `SlidingWindows` in place of each `Tensor.unfold` along another axis than that of the items; changes `module`."""
    nodes = {node for node in module.graph.nodes if node.op == "call_method" and node.target == _UNFOLD}
    if not nodes:
        return
    run = _Unfolds(module, nodes)
    with torch.no_grad():
        run.run(*tensors(example))
    for node, windows in run.found.items():
        node.op, node.target, node.args, node.kwargs = "call_module", f"{node.name}_windows", (node.args[0],), {}
        module.add_submodule(node.target, windows)
    module.recompile()


class _Unfolds(fx.Interpreter):
    """Runs a module and gathers what does the same as some nodes."""

    def __init__(self, module: fx.GraphModule, nodes: set[fx.Node]) -> None:
        super().__init__(module)
        self._nodes = nodes
        self.found: dict[fx.Node, SlidingWindows] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note the sizes that it has."""
        if n in self._nodes:
            (x, *given), named = self.fetch_args_kwargs_from_env(n)
            asked = dict(zip(("dimension", "size", "step"), given, strict=False)) | named
            axis = asked["dimension"] % x.ndim
            if axis:
                self.found[n] = SlidingWindows(axis, x.shape[axis], asked["size"], asked["step"])
        return super().run_node(n)
