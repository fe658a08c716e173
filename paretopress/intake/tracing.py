"""Trace a module: its inputs by position, its outputs as a tensor or a tuple of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from paretopress.core.model_inputs import Inputs, like, taken, tensors
from paretopress.errors import ModelError, typed_line, users_line
from paretopress.intake.recording.record import NAMES, record
from paretopress.intake.rewrites import Rules, drop_dead_code, explicit, rewrite

# all that a forward computes for them is kept until it ends
_RECORDED_ITEMS = 2


def trace(model: nn.Module, names: Sequence[str] | None, example: Inputs, rules: Rules) -> fx.GraphModule:
    """Return a copy of a model in eval mode as an fx graph that takes its inputs by position, put in other words by some rules.

    Args:
        names: of the arguments of the model's forward that the inputs are; None takes the first ones.
        example: a batch of inputs, which is not changed.
    Raises: ModelError: the model cannot be traced, with the line where that stopped; or its forward has no such arguments.
    """
    given = arguments(model, names, example)
    copied = copy.deepcopy(model)
    try:
        root = explicit(copied, lambda: called(copied, names, example), rules)
        module = record(root, given, copies(taken(example, _RECORDED_ITEMS)), lambda parts: called_with(root, names, parts, 0))
        drop_dead_code(module)
        rewrite(module, like(example, copies(example)), rules)
    except ModelError:
        raise
    except Exception as error:  # whatever the user's forward meets
        raise ModelError(
            f"the model must run when it is recorded, but got {typed_line(error)}{users_line(error)}", "Please report this."
        ) from error
    return module


def arguments(model: nn.Module, names: Sequence[str] | None, example: Inputs) -> list[str]:
    """Return the arguments of a model's forward that the inputs are; see `trace`. Raises: ModelError: it has no such, or needs others."""
    given = list(inspect.signature(model.forward).parameters)[: len(tensors(example))] if names is None else list(names)
    _fixed(model, given)
    return given


def called(model: nn.Module, names: Sequence[str] | None, batch: Inputs, seed: int = 0) -> Any:
    """Return what a model puts out for copies of its inputs, given by name or by position, without gradients."""
    return called_with(model, names, copies(batch), seed)


def called_with(model: nn.Module, names: Sequence[str] | None, parts: Sequence[Tensor], seed: int) -> Any:
    """Return what a model puts out for these very tensors, which its forward may change; see `called`."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model(*parts) if names is None else model(**dict(zip(names, parts, strict=True)))


def copies(x: Inputs) -> tuple[Tensor, ...]:
    """Return copies of the inputs, for a forward that may change what it is given."""
    return tuple(part.clone() for part in tensors(x))


def _fixed(model: nn.Module, given: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of the arguments of a model's forward that are not given; raises ModelError if one has none."""
    parameters = inspect.signature(model.forward).parameters
    plain = {name: each for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    takes_any = len(plain) < len(parameters)
    unknown = [] if takes_any else [name for name in given if name not in plain]
    if unknown:
        raise ModelError(f"the model's forward must take what the data gives, but got {unknown[0]}", f"It takes {', '.join(plain)}.")
    missing = [name for name, each in plain.items() if name not in given and each.default is each.empty]
    if missing:
        raise ModelError(
            f"the data must give all arguments of the model's forward, but {missing[0]} is missing", "Let x be a dict by names."
        )
    return {name: each.default for name, each in plain.items() if name not in given}


def output_names(module: fx.GraphModule) -> list[str] | None:
    """Return the names that a model gives its outputs, None where it puts out one, or does not name them."""
    names: list[str] | None = _output(module).meta.get(NAMES)
    return names


def output_nodes(module: fx.GraphModule) -> tuple[Any, ...]:
    """Return what the outputs are made by."""
    value = _output(module).args[0]
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _output(module: fx.GraphModule) -> fx.Node:
    node: fx.Node = next(node for node in module.graph.nodes if node.op == "output")
    return node
