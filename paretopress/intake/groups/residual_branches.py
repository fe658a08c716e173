"""Residual branches with an identity skip: add(x, f(x)) where f can be left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx

from paretopress.compress.prune.branches import is_add
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import ChannelGroup, ResidualBranch
from paretopress.intake.flow.shapes import shape_of


def find_branches(module: fx.GraphModule, groups: tuple[ChannelGroup, ...]) -> tuple[ResidualBranch, ...]:
    """Return the branches that can be removed, in the model's order.

    A branch is the set of nodes between a skip and an add, used nowhere else, that holds a layer.
    """
    modules = dict(module.named_modules())
    branches = []
    for add in module.graph.nodes:
        if not is_add(add):
            continue
        for skip_arg in (0, 1):
            nodes = _between(add.args[skip_arg], add.args[1 - skip_arg], add)
            layers = [str(node.target) for node in nodes if node.op == "call_module" and isinstance(modules[str(node.target)], Weighted)]
            if layers:
                branches.append(_branch(add, skip_arg, layers, groups))
                break
    return tuple(branches)


def _branch(add: fx.Node, skip_arg: int, layers: list[str], groups: tuple[ChannelGroup, ...]) -> ResidualBranch:
    inside = tuple(group.name for group in groups if set(group.layers) <= set(layers))
    return ResidualBranch(inside[0] if inside else layers[0], add.name, skip_arg, tuple(layers), inside)


def _between(skip: fx.Node, end: fx.Node, add: fx.Node) -> list[fx.Node]:
    """Return the nodes from `skip` (excluded) to `end` (included) in graph order; empty if something else uses them.

    What they read beside the skip, a mask for one, is not of the branch; nor is what is computed from the skip's sizes alone.
    """
    reading = [user for user in skip.users if (user.op, user.target) != ("call_method", "size")]
    behind = {skip} | _reached(reading, lambda node: node.users, end)
    before = _reached([end], lambda node: node.all_input_nodes, skip)
    found = (behind & before) - {skip}
    closed = all(user in found or user is add for node in found for user in node.users)
    same_shape = shape_of(skip) == shape_of(end)
    return [node for node in add.graph.nodes if node in found] if end in found and closed and same_shape else []


def _reached(start: list[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]], last: fx.Node) -> set[fx.Node]:
    """Return the nodes reached from some others, they included; what lies beyond `last` is not followed."""
    found: set[fx.Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node is not last:
                waiting.extend(following(node))
    return found
