"""Sizes that a graph reads from its tensors, in numbers where they are the same for every batch: the file then need not compute them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from paretopress.core.model_inputs import Inputs, tensors


def fold_known_sizes(module: fx.GraphModule, example: Inputs) -> None:
    """Put numbers in place of the sizes, and of what is computed from them, that do not depend on the number of items; changes `module`."""
    if not any(node.target == "size" for node in module.graph.nodes):
        return
    few = tuple(part[:2] for part in tensors(example))
    more = tuple(torch.cat([part, part[:1]]) for part in few)
    first, second = (_numbers(module, batch) for batch in (few, more))
    for node in reversed(list(module.graph.nodes)):
        if node in first and first[node] == second.get(node):
            node.replace_all_uses_with(first[node])
            module.graph.erase_node(node)
    module.recompile()


def _numbers(module: fx.GraphModule, batch: tuple[torch.Tensor, ...]) -> dict[fx.Node, int]:
    found: dict[fx.Node, int] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if type(value) is int:
                found[n] = value
            return value

    with torch.inference_mode():
        Run(module).run(*batch)
    return found
