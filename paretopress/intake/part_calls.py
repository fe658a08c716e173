"""The calls of parts of a model, and how another form of a part differs from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paretopress.core.model_outputs import by_place, named_tensors
from paretopress.intake.agreement import Difference, difference

Found = Mapping[str, Tensor]
# (arguments, arguments by name, what was put out)
Call = tuple[tuple[Any, ...], dict[str, Any], Found]


def calls_of(model: nn.Module, names: Sequence[str], run: Callable[[], object]) -> dict[str, list[Call]]:
    """Return the arguments and outputs of every call of some parts of a model while it runs."""
    found: dict[str, list[Call]] = {name: [] for name in names}

    def recorder(name: str) -> Callable[..., None]:
        # copies: what comes behind may change in place what the part put out
        return lambda _, args, named, output: found[name].append((args, named, _copied(output)))

    handles = [model.get_submodule(name).register_forward_hook(recorder(name), with_kwargs=True) for name in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _copied(output: object) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in named_tensors(output).items()}


def part_differs(form: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Found, allowed: float) -> Difference | None:
    """Return how the form of a part differs from it for one call, in what both put out."""
    with torch.no_grad():
        found = list(named_tensors(form(*args, **named)).values())
    return difference(by_place(list(output.values())[: len(found)]), by_place(found), allowed)
