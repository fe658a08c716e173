"""Shapes recorded at the nodes of a traced model."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from paretopress.core.model_inputs import Inputs, tensors


def note_shapes(module: fx.GraphModule, example: Inputs) -> None:
    """Run a graph once, for `shape_of` to know the shapes of its nodes."""
    with torch.no_grad():
        ShapeProp(module).propagate(*tensors(example))


def shape_of(node: object) -> tuple[int, ...] | None:
    """Return the shape of the tensor that a node put out when ShapeProp ran the graph; None for what is no single tensor."""
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else None
