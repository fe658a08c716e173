"""Check a model converted from an ONNX file against the file; where they differ, the file itself is the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from paretopress.core.model_inputs import Inputs, split, taken
from paretopress.core.model_outputs import by_place, named_tensors
from paretopress.errors import typed_line
from paretopress.intake.agreement import difference
from paretopress.intake.faithful import evaluated_copy
from paretopress.intake.onnx_module import OnnxGraph
from paretopress.intake.tracing import called

# the two run on other kernels; what `check_parity` allows on the way back
_ALLOWED = 1e-3
_BATCH = 4


def faithful_conversion(model: nn.Module, path: Path, names: Sequence[str] | None, items: Inputs) -> nn.Module:
    """Return a model that was converted from a file if it puts out what the file does, for one item and for several, else the file.

    Args: names: of the inputs; None takes them in their order. items: real ones, (N, ...).
    Raises: ModelError: the runtime does not load the file.
    """
    file = OnnxGraph(onnx.load(path), "")
    converted = evaluated_copy(model)
    for batch in (*split(items, _BATCH), taken(items, 1)):
        wanted = by_place(named_tensors(called(file, names, batch)).values())
        try:
            found = by_place(named_tensors(called(converted, names, batch)).values())
        except Exception as error:  # a file of fixed batch size holds it in its reshapes, too
            file.reason = f"the converted model raised {typed_line(error)}"
            return file
        differs = difference(wanted, found, _ALLOWED)
        if differs is not None:
            file.reason = f"the converted model computes something else, {differs}"
            return file
    return model
