"""Residual branches with an identity skip: add(x, f(x)) where f can be left out."""

from __future__ import annotations

from torch import fx, nn

from paretopress.compress.branches import is_add
from paretopress.graph import ChannelGroup, ResidualBranch
from paretopress.intake.shapes import shape_of


def find_branches(module: fx.GraphModule, groups: tuple[ChannelGroup, ...]) -> tuple[ResidualBranch, ...]:
    """Return the branches that can be removed, in the model's order.

    A branch is the set of nodes between a skip and an add, used nowhere else, that depends on the skip alone and holds a layer.
    """
    modules = dict(module.named_modules())
    branches = []
    for add in module.graph.nodes:
        if not is_add(add):
            continue
        for skip_arg in (0, 1):
            nodes = _between(add.args[skip_arg], add.args[1 - skip_arg], add)
            layers = [
                str(node.target)
                for node in nodes
                if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d | nn.Linear)
            ]
            if layers:
                branches.append(_branch(add, skip_arg, layers, groups))
                break
    return tuple(branches)


def _branch(add: fx.Node, skip_arg: int, layers: list[str], groups: tuple[ChannelGroup, ...]) -> ResidualBranch:
    inside = tuple(group.name for group in groups if set(group.layers) <= set(layers))
    return ResidualBranch(inside[0] if inside else layers[0], add.name, skip_arg, tuple(layers), inside)


def _between(skip: fx.Node, end: fx.Node, add: fx.Node) -> list[fx.Node]:
    """Return the nodes from `skip` (excluded) to `end` (included) in graph order; empty if the branch is not closed."""
    found: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is skip or node in found:
            continue
        if node.op in ("placeholder", "get_attr"):
            return []
        found.add(node)
        waiting.extend(node.all_input_nodes)
    closed = all(user in found or user is add for node in found for user in node.users)
    reaches = any(skip in node.all_input_nodes for node in found)
    same_shape = shape_of(skip) == shape_of(end)
    return [node for node in add.graph.nodes if node in found] if closed and reaches and same_shape else []
