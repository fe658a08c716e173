"""Options of a verb in groups: a parameter that is a dataclass stands for one option per field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb for Typer whose parameters that are dataclasses are spread into their fields, in order.

    A field keeps its name, its `Annotated` option and its default. Raises: ValueError: two groups have a field of the same name.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    spread: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        options = _options(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]
        for option in options:
            if option.name in spread:
                raise ValueError(f"options must have different names, but got {option.name} twice in {verb.__name__}")
            spread[option.name] = option.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(verb)
    def typed(**given: Any) -> None:
        made = {name: kind(**{field.name: given.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()}
        verb(**given, **made)

    del typed.__wrapped__  # Typer would look through to the groups
    typed.__signature__ = inspect.Signature(list(spread.values()))  # type: ignore[attr-defined]
    typed.__annotations__ = {name: option.annotation for name, option in spread.items()} | {"return": None}
    return typed


def _options(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
