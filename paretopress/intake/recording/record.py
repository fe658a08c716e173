"""Record a model as a torch.fx module: what it computes for its inputs, in layers and functions that later stages know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_outputs import named_tensors
from paretopress.errors import ModelError
from paretopress.intake.recording.calls import is_in_place
from paretopress.intake.recording.constants import fold_constants
from paretopress.intake.recording.raise_layers import raise_layers
from paretopress.intake.recording.recorder import Recorder
from paretopress.intake.recording.reshapes import free_reshapes

# where the output's node keeps the names of several outputs
NAMES = "names"


def record(root: nn.Module, names: Sequence[str], batch: Sequence[Tensor], call: Callable[[Sequence[Tensor]], Any]) -> fx.GraphModule:
    """Return what a module computes as a graph that takes its inputs by position, for any batch size.

    Args:
        root: in eval mode; it is changed: layers and constants are added to it.
        names: of the inputs. batch: (N, ...) of real inputs, N >= 2. call: runs `root` on inputs of such shapes.
    Raises: ModelError: its forward decides by values that depend on the inputs.
    """
    longer = tuple(torch.cat([part, part[:1]]) for part in batch)  # a size that no earlier call has seen, and Python code has kept
    try:
        recorder, output = _recorded(root, names, longer, call, _as_if_traced())
    except Exception:  # such as math on sizes, which a forward does with torch's functions while it is traced
        recorder, output = _recorded(root, names, longer, call, nullcontext())
    if recorder.value_reads:
        places = ", ".join(dict.fromkeys(recorder.value_reads))
        raise ModelError(
            f"the model's forward must not depend on the values of its inputs, but it reads one at {places}",
            "Move the decision out of forward, or write it with torch.where.",
        )
    found = named_tensors(output)
    if not found:
        raise ModelError(f"the model must return tensors, but got {type(output).__name__}", "Return the logits in eval mode.")
    end = recorder.add_outputs(list(found.values()))
    end.meta[NAMES] = list(found) if len(found) > 1 and not all(name.isdecimal() for name in found) else None
    graph = recorder.graph
    raise_layers(root, graph)
    free_reshapes(graph)
    fold_constants(root, graph, (longer, tuple(batch)))
    drop_unread(graph)
    return fx.GraphModule(root, graph, type(root).__name__)


def _recorded(
    root: nn.Module,
    names: Sequence[str],
    batch: Sequence[Tensor],
    call: Callable[[Sequence[Tensor]], Any],
    around: AbstractContextManager[None],
) -> tuple[Recorder, Any]:
    """Return a call of the module as it was recorded, and what it returned; where it raises, the module is left without new constants."""
    before = set(root.state_dict())
    given = [part.clone() for part in batch]
    recorder = Recorder(root)
    for name, part in zip(names, given, strict=True):
        recorder.add_input(name, part)
    try:
        with recorder.layers(), around, recorder:
            return recorder, call(given)
    except Exception:
        for name in set(root.state_dict()) - before:
            delattr(root, name)
        raise


@contextmanager
def _as_if_traced() -> Iterator[None]:
    """Let libraries know that they are traced, and call the Python of functions that were compiled by torch.jit.script.

    Those of transformers then do without looking into a mask to see whether they need it.
    """
    jit: Any = torch.jit
    is_tracing, call = jit.is_tracing, jit.ScriptFunction.__call__

    def original(function: Any, *args: Any, **kwargs: Any) -> Any:
        python = getattr(function, "_torchdynamo_inline", None)
        return call(function, *args, **kwargs) if python is None else python(*args, **kwargs)

    jit.is_tracing, jit.ScriptFunction.__call__ = lambda: True, original
    try:
        yield
    finally:
        jit.is_tracing, jit.ScriptFunction.__call__ = is_tracing, call


def drop_unread(graph: fx.Graph) -> None:
    """Remove the nodes that nothing reads, but for those that change a tensor in place, as `x.mul_(2)` on a line of its own does."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output") and not is_in_place(node):
            graph.erase_node(node)
