"""Rewrite rules at intake: replace operators and modules by equivalents that later stages recognise.

Before tracing: attention by plain layers. After it: channel shuffles as modules, paddings in numbers. A rule leaves the
outputs as they are, up to the order of float sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import fx, nn

from paretopress.compress.explicit.attention import Attention, is_plain
from paretopress.compress.explicit.swin_attention import WindowAttention, attends_in_windows
from paretopress.compress.prune.channel_shuffle import ChannelShuffle
from paretopress.core.layer_types import Conv
from paretopress.core.model_inputs import Inputs
from paretopress.intake.flow.shapes import note_shapes, shape_of
from paretopress.intake.recording.record import drop_unread

_RESHAPES = frozenset({"view", "reshape", "flatten", torch.reshape, torch.flatten})
_TRANSPOSES = frozenset({"transpose", "permute", "swapaxes", torch.transpose, torch.permute})
_COPIES = frozenset({"contiguous"})


@dataclass(slots=True)
class Rules:
    """Which rewrites are made, by the module path or the node that they concern; `offered` gathers all that could be made."""

    left_out: frozenset[str] = frozenset()
    offered: list[str] = field(default_factory=list)

    def make(self, name: str) -> bool:
        """Note that a rewrite is possible, and return whether it is made."""
        self.offered.append(name)
        return name not in self.left_out


def explicit(model: nn.Module, run: Callable[[], object] | None = None, rules: Rules | None = None) -> nn.Module:
    """Put plain layers in place of attention that needs no more than them; changes the model, and returns it.

    `run` runs the model once: attention within windows is written out for the size of its maps, and stays as it is without.
    """
    rules = rules or Rules()
    for name, made in in_plain_layers(model, run).items():
        if rules.make(name):
            if not name:
                return made()
            model.set_submodule(name, made())
    return model


def in_plain_layers(model: nn.Module, run: Callable[[], object] | None = None) -> dict[str, Callable[[], nn.Module]]:
    """Return each part of a model that has a form in plain layers, by its path, with what makes that form of the part; see `explicit`."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for name, size in _map_sizes(model, run).items():
        found[name] = partial(WindowAttention, model.get_submodule(name), size)
    for name, part in model.named_modules():
        if type(part) is nn.MultiheadAttention and is_plain(part) and not _belongs_to_torch(model, name):
            found[name] = partial(_plain_attention, part)
    return found


def _plain_attention(part: nn.MultiheadAttention) -> nn.Module:
    return Attention(part).train(part.training)


def _map_sizes(model: nn.Module, run: Callable[[], object] | None) -> dict[str, tuple[int, int]]:
    """Return each attention within windows with the (rows, columns) of its maps, those left out that see maps of several sizes."""
    seen: dict[str, set[tuple[int, int]]] = {name: set() for name, part in model.named_modules() if name and attends_in_windows(part)}
    if run is None or not seen:
        return {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, sizes=sizes: sizes.add(tuple(args[0].shape[1:3])))
        for name, sizes in seen.items()
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: next(iter(sizes)) for name, sizes in seen.items() if len(sizes) == 1}


def _belongs_to_torch(model: nn.Module, name: str) -> bool:
    """Return whether the module's parent is one of torch's own layers, which look into it."""
    parent = model.get_submodule(name.rpartition(".")[0])
    return type(parent).__module__.startswith("torch.nn.") and not isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def rewrite(module: fx.GraphModule, example: Inputs, rules: Rules | None = None) -> None:
    """Apply the rules for traced models in place; `example` is a batch of inputs."""
    rules = rules or Rules()
    _paddings_in_numbers(module, rules)
    note_shapes(module, example)
    for found in list(_shuffles(module)):
        name = f"channel_shuffle_{found.end.name}"
        if not rules.make(name):
            continue
        module.add_submodule(name, ChannelShuffle(found.groups, found.channels))
        with module.graph.inserting_before(found.end):
            found.end.replace_all_uses_with(module.graph.call_module(name, (found.start,)))
    drop_dead_code(module)


def drop_dead_code(module: fx.GraphModule) -> None:
    """Remove the nodes that nothing reads, but for those that change a tensor in place."""
    drop_unread(module.graph)
    module.recompile()


def _paddings_in_numbers(module: fx.GraphModule, rules: Rules) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, Conv) and isinstance(layer.padding, str) and rules.make(name):
            reach = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
            if layer.padding == "valid":
                layer.padding = (0,) * len(reach)
            elif all(each % 2 == 0 for each in reach):  # an even kernel pads its two sides differently
                layer.padding = tuple(each // 2 for each in reach)


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """A channel shuffle of `start` that ends at `end`."""

    start: fx.Node
    end: fx.Node
    groups: int
    channels: int


def _shuffles(module: fx.GraphModule) -> Iterator[_Shuffle]:
    """Yield (N, C, ...) -> (N, groups, C / groups, ...) -> the two swapped -> (N, C, ...), however it is spelled."""
    for end in module.graph.nodes:
        swap = _source(end, _RESHAPES)
        while swap is not None and _is(swap, _COPIES):
            swap = _source(swap, _COPIES)
        split = None if swap is None else _source(swap, _TRANSPOSES)
        start = None if split is None else _source(split, _RESHAPES)
        if swap is None or split is None or start is None:
            continue
        whole, parts = shape_of(start), shape_of(split) or ()
        if len(parts) < 4 or (parts[0], parts[1] * parts[2], *parts[3:]) != whole or shape_of(end) != whole:
            continue
        if _swaps_channels(swap, len(parts)):
            yield _Shuffle(start, end, parts[1], whole[1])


def _swaps_channels(node: fx.Node, rank: int) -> bool:
    """Return whether a transpose or permute swaps axes 1 and 2 alone."""
    named = [*node.args[1:], *node.kwargs.values()]
    listed = named[0] if len(named) == 1 and isinstance(named[0], list | tuple) else named
    axes = [axis % rank for axis in listed if isinstance(axis, int)]
    return set(axes) == {1, 2} if len(axes) == 2 else axes == [0, 2, 1, *range(3, rank)]


def _source(node: fx.Node, targets: frozenset[object]) -> fx.Node | None:
    """Return what the node works on if it is one of the operators."""
    source = node.args[0] if _is(node, targets) and node.args else None
    return source if isinstance(source, fx.Node) else None


def _is(node: fx.Node, targets: frozenset[object]) -> bool:
    return node.op in ("call_method", "call_function") and node.target in targets
