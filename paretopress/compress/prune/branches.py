"""Remove whole residual branches from a traced model."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from paretopress.core.model_graph import ResidualBranch

ADD_FUNCTIONS = frozenset({operator.add, operator.iadd, torch.add})
ADD_METHODS = frozenset({"add", "add_"})
_RELU_FUNCTIONS = frozenset({torch.relu, torch.relu_, nn.functional.relu})
_RELU_METHODS = frozenset({"relu", "relu_"})


def is_add(node: fx.Node) -> bool:
    """Return whether the node adds two tensors."""
    named = (node.op == "call_function" and node.target in ADD_FUNCTIONS) or (node.op == "call_method" and node.target in ADD_METHODS)
    return named and len(node.args) == 2 and all(isinstance(arg, fx.Node) for arg in node.args)


def is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Return whether the node is a ReLU in any of its spellings."""
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    if node.op == "call_method":
        return node.target in _RELU_METHODS
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.ReLU)


def remove_branches(module: fx.GraphModule, branches: list[ResidualBranch]) -> None:
    """Remove the branches in place: each add gives way to its skip, and what nothing uses any more is deleted.

    A ReLU whose only input is a ReLU is dropped too: the runtime keeps it otherwise.
    """
    if not branches:
        return
    nodes = {node.name: node for node in module.graph.nodes}
    for branch in branches:
        add = nodes[branch.add]
        skip = add.args[branch.skip_arg]
        assert isinstance(skip, fx.Node)
        add.replace_all_uses_with(skip)
        module.graph.erase_node(add)
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        source = node.args[0] if node.args else None
        if is_relu(node, modules) and isinstance(source, fx.Node) and is_relu(source, modules):
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    _erase_unused(module.graph)
    module.delete_all_unused_submodules()
    module.recompile()


def _erase_unused(graph: fx.Graph) -> None:
    # Graph.eliminate_dead_code keeps in-place ReLUs as "impure"; nothing here has an effect beyond its own output
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
