"""Bit groups: layers that feed one add share a bit width, because the runtime fuses the add only if all its inputs are quantised."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx, nn

from paretopress.compress.prune.branches import is_add
from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import BitGroup, Layer, LayerKind

# int4 weights pay in size only where there are many: blocks of 32 along the inputs, a Linear with fewer has nothing to save
_MIN_INT4_FEATURES = 128


def find_bit_groups(module: fx.GraphModule, layers: tuple[Layer, ...]) -> tuple[BitGroup, ...]:
    """Return the bit groups in the model's order; each is named by its first layer."""
    leader = {layer.name: layer.name for layer in layers}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    order = {layer.name: i for i, layer in enumerate(layers)}
    modules = dict(module.named_modules())
    lstms = {name for name, part in modules.items() if isinstance(part, nn.LSTM)}
    for node in module.graph.nodes:
        if not is_add(node):
            continue
        feeding = [name for arg in node.args if (name := _producer(arg, modules)) in leader]
        for other in feeding[1:]:
            first, second = sorted((root(feeding[0]), root(other)), key=order.__getitem__)
            leader[second] = first
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        members.setdefault(root(layer.name), []).append(layer)
    return tuple(BitGroup(name, tuple(layer.name for layer in group), bits_of(group, lstms)) for name, group in members.items())


def _producer(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Return the layer whose output reaches the node through normalisation, dropout or identity alone, or ""."""
    while node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, Weighted):
            return str(node.target)
        if not isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout | nn.Identity):
            return ""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return ""


def bits_of(group: Sequence[Layer], lstms: Collection[str] = ()) -> tuple[int, ...]:
    """Return the widths that layers can take together; `lstms` are those among them that are LSTMs."""
    if any(layer.kind is LayerKind.RECURRENT for layer in group):
        return (32, 8) if all(layer.name in lstms for layer in group) else (32,)  # the runtime has no GRU of 8 bits
    weight_only = all(layer.kind is LayerKind.LINEAR and layer.in_channels >= _MIN_INT4_FEATURES for layer in group)
    return (32, 8, 4) if weight_only else (32, 8)
