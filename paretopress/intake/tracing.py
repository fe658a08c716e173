"""Tracing a module with torch.fx: its inputs by position, its outputs as a tensor or a tuple of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from paretopress.compress.explicit.swin_attention import HeadBias
from paretopress.core.model_inputs import Inputs, like, tensors
from paretopress.errors import ModelError, first_line
from paretopress.intake.rewrites import Rules, drop_dead_code, explicit, rewrite

# where the output's node keeps the names of several outputs
_NAMES = "names"


class _Tracer(fx.Tracer):
    """Traces through modules that are made in a forward, as a slice of an nn.Sequential is: their children belong to the model."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, HeadBias) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self.path_of_module(m)
        except NameError:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


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
        with torch.random.fork_rng(devices=[]):
            module = _traced(root, given, _fixed(root, given))
        rewrite(module, like(example, copies(example)), rules)
    except Exception as error:  # whatever the user's forward meets when it is run on proxies
        hint = "Control flow that depends on tensor values cannot be traced: move it out of forward, or wrap it with torch.fx.wrap."
        raise ModelError(f"the model must be traceable by torch.fx, but got: {first_line(error)}", hint) from error
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


def _traced(root: nn.Module, given: Sequence[str], fixed: Mapping[str, Any]) -> fx.GraphModule:
    graph = _Tracer().trace(root, concrete_args=dict(fixed) or None)
    holders = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    for name, node in holders.items():
        if name not in given:
            _erase(graph, node)  # and the assertion that it has its default
    for name in reversed(given):
        first = next(iter(graph.nodes))
        if holders[name] is not first:
            first.prepend(holders[name])
    _flatten_output(graph)
    module = fx.GraphModule(root, graph, type(root).__name__)
    drop_dead_code(module)
    return module


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _flatten_output(graph: fx.Graph) -> None:
    """Put out a tensor, or a tuple of them with their names beside it, instead of a dict, a list or a dataclass."""
    (node,) = (node for node in graph.nodes if node.op == "output")
    value = node.args[0]
    if isinstance(value, fx.Node) and value.op == "call_function" and is_dataclass(value.target):
        value = dict(zip((part.name for part in fields(value.target)), value.args, strict=False)) | dict(value.kwargs)
    if isinstance(value, Mapping):
        named = {str(name): part for name, part in value.items() if isinstance(part, fx.Node)}
        node.meta[_NAMES] = list(named) if len(named) > 1 else None
        parts = list(named.values())
    else:
        parts = [part for part in value if isinstance(part, fx.Node)] if isinstance(value, tuple | list) else [value]
    node.args = (parts[0],) if len(parts) == 1 else (tuple(parts),)


def output_names(module: fx.GraphModule) -> list[str] | None:
    """Return the names that a model gives its outputs, None where it puts out one, or does not name them."""
    names: list[str] | None = _output(module).meta.get(_NAMES)
    return names


def output_nodes(module: fx.GraphModule) -> tuple[Any, ...]:
    """Return what the outputs are made by."""
    value = _output(module).args[0]
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _output(module: fx.GraphModule) -> fx.Node:
    node: fx.Node = next(node for node in module.graph.nodes if node.op == "output")
    return node
