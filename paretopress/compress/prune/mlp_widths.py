"""The hidden width of an MLP (Linear, activations, Linear), which is pruned without a dependency graph."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional as F

from paretopress.core.model_graph import ChannelGroup

# what is applied to each value alone and leaves zero at zero
_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Hardswish, nn.Hardtanh, nn.Dropout, nn.Identity,
)  # fmt: skip
_FUNCTIONS = frozenset({F.relu, F.relu6, F.leaky_relu, F.gelu, F.silu, F.elu, F.tanh, F.hardswish, F.dropout, torch.relu, torch.tanh})
_METHODS = frozenset({"relu", "tanh"})


def find_mlp_widths(module: fx.GraphModule) -> list[ChannelGroup]:
    """Return a group for the width of each such chain, in the model's order; layers that are called more than once have none."""
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    groups = []
    for node in module.graph.nodes:
        first, second = linear_called(module, node), _reader(module, node)
        if first and second and calls[first] == calls[second] == 1:
            layer = module.get_submodule(first)
            assert isinstance(layer, nn.Linear)
            groups.append(ChannelGroup(first, layer.out_features, (first,), (second,)))
    return groups


def is_mlp_width(module: nn.Module, group: ChannelGroup) -> bool:
    """Return whether the group is the width of a chain of this module."""
    if not isinstance(module, fx.GraphModule) or len(group.layers) != 1 or len(group.feeds) != 1:
        return False
    calls = [node for node in module.graph.nodes if node.op == "call_module" and node.target in (*group.layers, *group.feeds)]
    return len(calls) == 2 and linear_called(module, calls[0]) == group.name and _reader(module, calls[0]) == group.feeds[0]


def _reader(module: fx.GraphModule, node: fx.Node) -> str:
    """Return the Linear that alone reads the node's output, as it is or activated; "" if there is none."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if not _is_activation(module, node):
            return linear_called(module, node)
    return ""


def _is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _MODULES)
    return (node.op == "call_function" and node.target in _FUNCTIONS) or (node.op == "call_method" and node.target in _METHODS)


def linear_called(module: fx.GraphModule, node: fx.Node) -> str:
    """Return the path of the Linear that a node calls, or ""."""
    return str(node.target) if node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Linear else ""
