"""What a model puts out: the tensors in a tensor, a tuple, a dict or a dataclass, by names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

from torch import Tensor

from paretopress.core.model_graph import OUTPUT


def named_tensors(value: object) -> dict[str, Tensor]:
    """Return the tensors that a model puts out: those of a dict or a dataclass by their names, others by their places.

    One that lies deeper has the names on the way to it: "boxes_0" of {"boxes": [boxes]}, "output_1_boxes" of (tensor, {"boxes": boxes}).
    """
    found = {"0": value} if isinstance(value, Tensor) else dict(_leaves(value, ()))
    if all(map(str.isdecimal, found)):
        return found
    return {f"{OUTPUT}_{name}" if name[:1].isdecimal() else name: part for name, part in found.items()}


def by_place(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return tensors by their places, "0" for the first."""
    return {str(place): part for place, part in enumerate(tensors)}


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if is_dataclass(value) and not isinstance(value, Mapping | type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Tensor):
        yield "_".join(path), value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, (*path, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for place, part in enumerate(value):
            yield from _leaves(part, (*path, str(place)))
