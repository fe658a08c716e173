"""Operators of a traced model put in other words at intake, so that what follows can tell what they do; one rule for each.

A rule leaves the outputs as they are, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.passes.shape_prop import ShapeProp

from paretopress.compress.shuffle import ChannelShuffle
from paretopress.intake.shapes import shape_of

_RESHAPES = frozenset({"view", "reshape", "flatten", torch.reshape, torch.flatten})
_TRANSPOSES = frozenset({"transpose", "permute", "swapaxes", torch.transpose, torch.permute})
_COPIES = frozenset({"contiguous"})


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """A channel shuffle of `start` that ends at `end`."""

    start: fx.Node
    end: fx.Node
    groups: int
    channels: int


def rewrite(module: fx.GraphModule, example: Tensor) -> None:
    """Apply every rule in place; `example` is a batch of inputs."""
    ShapeProp(module).propagate(example)
    for found in list(_shuffles(module)):
        name = f"channel_shuffle_{found.end.name}"
        module.add_submodule(name, ChannelShuffle(found.groups, found.channels))
        with module.graph.inserting_before(found.end):
            found.end.replace_all_uses_with(module.graph.call_module(name, (found.start,)))
    module.graph.eliminate_dead_code()
    module.recompile()


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
