"""Means over channels that can be pruned, written as sums times a number: what is removed then counts as what is silent."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from paretopress.intake.flow.channel_flow import ChannelFlow
from paretopress.intake.flow.free_reshapes import shrinking_axes

_MEANS = frozenset({"mean", torch.mean})


def sum_up_means(module: fx.GraphModule, flow: ChannelFlow, prunable: set[int]) -> None:
    """Write x.mean(1) as x.sum(1) * (1 / width) where channels of that axis can go; `prunable` are classes.

    So are the root mean squares of many a norm, and the maps of spatial attention, written in plain functions: the mean of those that are
    left would be larger than that with zeros in place of the others.
    """
    for node in list(module.graph.nodes):
        called = node.op in ("call_method", "call_function") and node.target in _MEANS and node.args
        if not called or not isinstance(labels := flow.values.get(node.args[0]), Tensor):
            continue
        axes = _axes(node, labels.dim())
        if axes is None or not set(axes) & set(shrinking_axes(flow, labels, prunable)):
            continue
        width = math.prod(int(labels.shape[axis]) for axis in axes)
        node.target = "sum" if node.op == "call_method" else torch.sum
        with module.graph.inserting_after(node):
            scaled = module.graph.call_function(torch.mul, (node, 1.0 / width))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user, scaled=scaled: user is not scaled)
    module.recompile()


def _axes(node: fx.Node, dims: int) -> list[int] | None:
    """Return over which axes of so many a mean is, None where that is not told by numbers, or the axis of the items is one of them."""
    named: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    found = [named] if isinstance(named, int) else list(named) if isinstance(named, tuple | list) else []
    if not found or not all(isinstance(axis, int) for axis in found):
        return None
    axes = [axis % dims for axis in found]
    return None if 0 in axes else axes
