"""Attention heads: the rows of query, key and value layers, and the columns of the layer behind, that go together."""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional as F

from paretopress.compress.prune.mlp_widths import linear_called
from paretopress.core.model_graph import ChannelGroup
from paretopress.intake.groups.shapes import shape_of

_MOVES_METHODS = frozenset({"transpose", "permute", "view", "reshape", "flatten", "unflatten", "contiguous", "swapaxes"})
_MOVES_FUNCTIONS = frozenset({torch.transpose, torch.permute, torch.reshape, torch.flatten})


def find_head_groups(module: fx.GraphModule) -> list[ChannelGroup]:
    """Return a group for each attention whose heads are a width of Linear layers of its own, in the model's order.

    The nodes must hold the shapes of a run (ShapeProp). A group's unit is the width of a head.
    """
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    groups = []
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not F.scaled_dot_product_attention:
            continue
        shape = shape_of(node.all_input_nodes[0]) or ()
        if len(shape) < 4 or shape[-3] < 2 or len(node.all_input_nodes) < 3:
            continue
        width = shape[-3] * shape[-1]
        makers = [_layer_before(source, module) for source in node.all_input_nodes[:3]]
        reader = _layer_behind(node, module)
        names = [*makers, reader]
        if all(names) and len(set(names)) == 4 and all(calls.count(name) == 1 for name in names):
            linears = [module.get_submodule(name) for name in names]
            if all(layer.out_features == width for layer in linears[:3]) and linears[3].in_features == width:
                groups.append(ChannelGroup(makers[0], width, tuple(makers), (reader,), unit=shape[-1]))
    return groups


def _layer_before(node: fx.Node, module: fx.GraphModule) -> str:
    """Return the Linear whose outputs are only moved about on the way to the node, or ""."""
    while _moves(node):
        node = node.all_input_nodes[0]
    return linear_called(module, node)


def _layer_behind(node: fx.Node, module: fx.GraphModule) -> str:
    """Return the Linear that the node's outputs are only moved about on the way to, or ""."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if not _moves(node):
            return linear_called(module, node)
    return ""


def _moves(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target in _MOVES_METHODS) or (node.op == "call_function" and node.target in _MOVES_FUNCTIONS)
