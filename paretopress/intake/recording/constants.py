"""Compute once what depends on no input's values: masks, position ids, bias tables that a forward makes anew in each call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from paretopress.intake.recording.recorder import SHAPE

# functions whose result depends on the shape and type of their first argument alone
_BY_SHAPE = frozenset({
    "size", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor",
    torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like,
})  # fmt: skip
# methods that take the type or the shape of the others
_BY_TYPE = frozenset({"type_as", "expand_as", "view_as", "reshape_as"})


def fold_constants(root: nn.Module, graph: fx.Graph, batches: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> None:
    """Put a buffer in place of each tensor that is the same for two batches of other sizes, and that no input's values have a part in.

    What was computed from parameters becomes a parameter.
    """
    free, trained = _without_inputs(root, graph)
    if not any(node.op not in ("get_attr", "placeholder") for node in free):
        return
    first, second = (_values(root, graph, free, batch) for batch in batches)
    same = {node for node in free if node in first and node in second and _equal(first[node], second[node])}
    for index, node in enumerate(list(graph.nodes)):
        if node not in same or node.op == "get_attr" or all(user in same for user in node.users):
            continue
        value, name = first[node].detach().clone(), f"constant_folded_{index}"
        if node in trained and value.is_floating_point():
            root.register_parameter(name, nn.Parameter(value))
        else:
            root.register_buffer(name, value)
        with graph.inserting_before(node):
            read = graph.get_attr(name)
        read.meta |= node.meta | {SHAPE: tuple(value.shape)}
        node.replace_all_uses_with(read)


def _without_inputs(root: nn.Module, graph: fx.Graph) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the nodes that depend on no input's values, and those of them that parameters have a part in."""
    free, trained = set[fx.Node](), set[fx.Node]()
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        sources = [] if node.target in _BY_SHAPE else node.all_input_nodes[:1] if node.target in _BY_TYPE else node.all_input_nodes
        changed = any(str(getattr(user.target, "__name__", user.target)).endswith(("_", "setitem")) for user in node.users)
        if all(source in free for source in sources) and not changed:
            free.add(node)
            holds = node.op == "call_module" and any(True for _ in root.get_submodule(str(node.target)).parameters())
            if holds or _reads_parameter(root, node) or any(source in trained for source in sources):
                trained.add(node)
    return free, trained


def _reads_parameter(root: nn.Module, node: fx.Node) -> bool:
    if node.op != "get_attr":
        return False
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return isinstance(value, nn.Parameter)


class _Kept(fx.Interpreter):
    """Runs a graph and keeps the values of some nodes."""

    def __init__(self, root: nn.Module, graph: fx.Graph, wanted: set[fx.Node]) -> None:
        super().__init__(root, graph=graph)
        self.wanted, self.values = wanted, dict[fx.Node, Any]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted and isinstance(value, Tensor):
            self.values[n] = value.clone()
        return value


def _values(root: nn.Module, graph: fx.Graph, wanted: set[fx.Node], batch: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    runner = _Kept(root, graph, wanted)
    with torch.no_grad():
        runner.run(*(part.clone() for part in batch))
    return runner.values


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and bool(torch.equal(first, second))
