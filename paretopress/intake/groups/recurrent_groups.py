"""Hidden widths of recurrent layers: which layers read the units, and nothing else."""

from __future__ import annotations

from torch import fx, nn

from paretopress.compress.prune.recurrent_units import Recurrent, directions, has_plain_units
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import ChannelGroup


def find_recurrent_groups(module: fx.GraphModule) -> list[ChannelGroup]:
    """Return a group for each LSTM and GRU whose units are read by Linear and recurrent layers of just that width."""
    modules = dict(module.named_modules())
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    groups = []
    for node in module.graph.nodes:
        layer = modules[str(node.target)] if node.op == "call_module" else None
        if not isinstance(layer, Recurrent) or not has_plain_units(layer) or calls.count(str(node.target)) > 1 or len(node.args) > 1:
            continue
        readers = _readers(node, modules)
        width = directions(layer) * layer.hidden_size
        if readers and all(_reads(modules[name], width) and calls.count(name) == 1 for name in readers):
            groups.append(ChannelGroup(str(node.target), layer.hidden_size, (str(node.target),), tuple(readers)))
    return groups


def _readers(node: fx.Node, modules: dict[str, nn.Module]) -> list[str]:
    """Return the layers that outputs reach without passing another; empty if they reach anything else that holds weights, or an output."""
    found: dict[str, None] = {}
    waiting, seen = list(node.users), set[fx.Node]()
    while waiting:
        user = waiting.pop(0)
        if user in seen:
            continue
        seen.add(user)
        if user.op == "output":
            return []
        called = modules[str(user.target)] if user.op == "call_module" else None
        if isinstance(called, Weighted | Recurrent):
            found[str(user.target)] = None
        elif called is not None and any(True for _ in called.parameters()):
            return []
        else:
            waiting.extend(user.users)
    return list(found)


def _reads(layer: nn.Module, width: int) -> bool:
    if isinstance(layer, Recurrent):
        return layer.input_size == width
    return isinstance(layer, nn.Linear) and layer.in_features == width
