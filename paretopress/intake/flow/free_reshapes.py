"""Free the reshapes of a traced model of widths that can be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from paretopress.intake.flow.channel_flow import ChannelFlow
from paretopress.intake.flow.labels import NONE
from paretopress.intake.flow.shapes import shape_of

_RESHAPES = frozenset({"view", "reshape", torch.reshape})
_INFERRED = -1


def free_widths(module: fx.GraphModule, flow: ChannelFlow, prunable: set[int]) -> None:
    """Let reshapes infer the axis that shrinks when channels go, and name the sizes of the others; `prunable` are classes.

    x.reshape(n, t, 3, 12, 64) of a layer whose 12 heads can be pruned is x.reshape(n, t, 3, -1, 64); where the model computes 64 from
    another width, which may be pruned as well, it is the number all the same. The nodes must hold the shapes of a run (ShapeProp).
    """
    for node in module.graph.nodes:
        value = flow.values.get(node)
        if node.op not in ("call_method", "call_function") or not isinstance(value, Tensor) or not isinstance(node.args[0], fx.Node):
            continue
        if node.target in _RESHAPES:
            _free_reshape(node, value, shrinking_axes(flow, value, prunable))
        elif node.target == "expand":
            _free_expand(node, shrinking_axes(flow, value, prunable))
        elif node.target == "unflatten":
            _free_unflatten(node, value, shrinking_axes(flow, value, prunable))
    module.recompile()


def shrinking_axes(flow: ChannelFlow, labels: Tensor, prunable: set[int]) -> list[int]:
    """Return the axes along which the classes of channels that can be pruned differ."""
    roots = flow.labels.roots(labels)
    present = set(torch.unique(roots).tolist()) - {NONE}
    if not present & prunable:
        return []
    return [axis for axis in range(roots.dim()) if roots.shape[axis] > 1 and not bool((roots == roots.narrow(axis, 0, 1)).all())]


def _free_reshape(node: fx.Node, labels: Tensor, shrinking: list[int]) -> None:
    sizes = _sizes(node.args[1:])
    if sizes is None or node.kwargs or len(shrinking) > 1 or len(sizes) != labels.dim():
        return
    static, source = _static(node, labels), node.args[0]
    made = [int(labels.shape[axis]) if static[axis] else size for axis, size in enumerate(sizes)]
    if shrinking:
        made[shrinking[0]] = _INFERRED
    inferred = [axis for axis, size in enumerate(made) if isinstance(size, int) and size == _INFERRED]
    if len(inferred) > 1:  # beside the axis that shrinks, one that the batch has a part in
        if inferred[0] != 0 or not isinstance(source, fx.Node) or (shape_of(source) or ())[:1] != (shape_of(node) or ())[:1]:
            return
        with node.graph.inserting_before(node):
            made[0] = node.graph.call_method("size", (source, 0))
    node.args = (source, tuple(made))


def _static(node: fx.Node, labels: Tensor) -> list[bool]:
    """Return for each axis whether its size is the same for one item, as labels are, and for the several of the example."""
    shape = shape_of(node) or ()
    return [len(shape) == labels.dim() and axis > 0 and shape[axis] == labels.shape[axis] for axis in range(labels.dim())]


def _free_unflatten(node: fx.Node, labels: Tensor, shrinking: list[int]) -> None:
    if len(node.args) != 3 or node.kwargs or not isinstance(node.args[1], int) or not isinstance(node.args[2], tuple | list):
        return
    start = node.args[1] % (labels.dim() - len(node.args[2]) + 1)
    if len(shrinking) == 1 and 0 <= shrinking[0] - start < len(node.args[2]) and start > 0:
        sizes: list[Any] = [int(labels.shape[start + place]) for place in range(len(node.args[2]))]
        sizes[shrinking[0] - start] = _INFERRED
        node.args = (node.args[0], node.args[1], tuple(sizes))


def _free_expand(node: fx.Node, shrinking: Sequence[int]) -> None:
    sizes = _sizes(node.args[1:])
    if sizes is not None and not node.kwargs:
        freed = (_INFERRED if axis in shrinking and isinstance(size, int) else size for axis, size in enumerate(sizes))
        node.args = (node.args[0], *freed)


def _sizes(named: tuple[Any, ...]) -> list[Any] | None:
    """Return the sizes that a reshape names, None where there are none."""
    if not named:
        return None
    return list(named[0]) if len(named) == 1 and isinstance(named[0], tuple | list) else list(named)
