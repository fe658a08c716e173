"""Shapes recorded at the nodes of a traced model."""

from __future__ import annotations

from torch import fx


def shape_of(node: object) -> tuple[int, ...] | None:
    """Return the shape of the tensor that a node put out when ShapeProp ran the graph; None for what is no single tensor."""
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None
