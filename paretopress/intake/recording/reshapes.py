"""Reshapes that fit any batch and any width: merged axes by `flatten`, the batch by the size of what is reshaped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from paretopress.intake.recording.recorder import SHAPE

_RESHAPES = frozenset({"view", "reshape", torch.reshape})
_SPLITS = frozenset({"split", "split_with_sizes", torch.split})
Axes = tuple[int, ...]


def free_reshapes(graph: fx.Graph) -> None:
    """Spell reshapes so that they name no size that another batch, or a pruned width, changes; a network may name them as numbers.

    x.view(-1, 400) of (N, 16, 5, 5) is x.flatten(1); x.reshape(8, 4, 16) of (8, 64), where 8 is the batch, begins with x.size(0); and
    x.split(16, 1) of 48 channels is x.chunk(3, 1).
    """
    for node in list(graph.nodes):
        if node.op in ("call_method", "call_function") and node.target in _SPLITS:
            _free_split(node)
        if node.op not in ("call_method", "call_function") or node.target not in _RESHAPES:
            continue
        source = node.args[0]
        before, after = (part.meta.get(SHAPE) for part in (source, node))
        if before is None or after is None:
            continue
        merged = _merged(before, after)
        with graph.inserting_before(node):
            if merged is not None:
                made = graph.call_function(torch.flatten, (source, *merged))
                made.meta |= node.meta
                node.replace_all_uses_with(made)
                graph.erase_node(node)
            elif after and before[:1] == after[:1]:
                sizes = _sizes(node)
                if sizes and isinstance(sizes[0], int) and sizes[0] != -1:
                    node.args = (source, (graph.call_method("size", (source, 0)), *sizes[1:]))


def _free_split(node: fx.Node) -> None:
    """Spell a split into parts of one size as a chunk, which names their number alone."""
    given = dict(zip(("source", "sizes", "dim"), node.args, strict=False)) | dict(node.kwargs)
    sizes, axis = given.get("sizes", given.get("split_size_or_sections", given.get("split_size"))), given.get("dim", 0)
    shape = node.args[0].meta.get(SHAPE) if isinstance(node.args[0], fx.Node) else None
    if shape is None or not isinstance(axis, int):
        return
    whole = shape[axis]
    parts = list(sizes) if isinstance(sizes, tuple | list) else [sizes] * (whole // sizes) if isinstance(sizes, int) and sizes else []
    if len(parts) > 1 and set(parts) == {whole / len(parts)}:
        node.op, node.target, node.args, node.kwargs = "call_function", torch.chunk, (node.args[0], len(parts), axis), {}


def _sizes(node: fx.Node) -> Sequence[object]:
    """Return the sizes that a reshape names, () where they are named otherwise than one after the other."""
    if node.kwargs:
        return ()
    named = node.args[1:]
    first = named[0] if named else ()
    return tuple(first) if isinstance(first, tuple | list) else named


def aligned(before: Axes, after: Axes) -> list[tuple[range, range]]:
    """Return which axes of a tensor become which of its reshape, as pairs of ranges of axes that hold equally many values."""
    pairs = []
    at = to = 0
    while at < len(before) and to < len(after):
        end, stop = at + 1, to + 1
        mine, theirs = before[at], after[to]
        while mine != theirs:
            if mine < theirs and end < len(before):
                mine, end = mine * before[end], end + 1
            elif theirs < mine and stop < len(after):
                theirs, stop = theirs * after[stop], stop + 1
            else:
                return []
        pairs.append((range(at, end), range(to, stop)))
        at, to = end, stop
    if pairs and at < len(before) and all(size == 1 for size in before[at:]):
        pairs[-1] = range(pairs[-1][0].start, len(before)), pairs[-1][1]
        at = len(before)
    if pairs and to < len(after) and all(size == 1 for size in after[to:]):
        pairs[-1] = pairs[-1][0], range(pairs[-1][1].start, len(after))
        to = len(after)
    return pairs if at == len(before) and to == len(after) else []


def _merged(before: Axes, after: Axes) -> tuple[int, int] | None:
    """Return the first and last of the axes that become one, where all others stay as they are; else None."""
    changed = [(mine, theirs) for mine, theirs in aligned(before, after) if len(mine) != 1 or len(theirs) != 1]
    if len(changed) != 1 or len(changed[0][1]) != 1:
        return None
    (mine, _), *_ = changed
    return mine.start, mine.stop - 1
