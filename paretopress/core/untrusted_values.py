"""Validate latencies, outcomes and plans that come from a database or a device."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from paretopress.core.confined_path import is_plain
from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import ForeignDataError, first_line

T = TypeVar("T")

# no true figure comes near it: a number may be as large as this, a text as long, a list or an object have so many members
_LARGEST, _LONGEST, _MOST = 1e15, 4_096, 100_000
_DEEPEST = 6
_HASH = re.compile(r"[0-9A-Za-z._-]{1,128}")
_LATENCY, _OUTCOME = ({field.name for field in fields(kind)} for kind in (Latency, Outcome))
_COUNTS = ("macs", "params", "size_bytes")


def parse_latency(value: object, source: str) -> Latency:
    """Return what `Latency.to_json` wrote elsewhere; raises ForeignDataError: another shape, or a number that is not finite."""
    given = _object(value, _LATENCY, f"a latency from {source}")
    for name, figure in given.items():
        what = f"{name} of a latency from {source}"
        if name in ("latency_ci_ms", "ratio_ci"):
            require(
                isinstance(figure, list | tuple) and len(figure) == 2 and all(map(is_number, figure)) and figure[0] <= figure[1],
                what,
                figure,
            )
        elif name in ("blocks", "runs", "occasions"):
            require(is_whole(figure), what, figure)
        elif name in ("throttled", "alike"):
            require(isinstance(figure, bool), what, figure)
        else:
            require((is_number(figure) and figure >= 0.0) or (name == "foreign_cores" and figure is None), what, figure)
    return _made(Latency.from_json, given, f"a latency from {source}")


def parse_outcome(value: object, source: str) -> Outcome:
    """Return what `Outcome.to_json` wrote elsewhere.

    Raises: ForeignDataError: another shape, a path that leads out of a run's folder, or a number that is not finite.
    """
    given = _object(value, _OUTCOME, f"an outcome from {source}")
    parse_latency(given.get("latency"), source)
    for name, figure in given.items():
        what = f"{name} of an outcome from {source}"
        if name in _COUNTS:
            require(is_whole(figure), what, figure)
        elif name == "rung":
            require(is_whole(figure) and figure in set(Rung), what, figure)
        elif name in ("val_accuracy", "test_accuracy"):
            require(is_number(figure) or (name == "test_accuracy" and figure is None), what, figure)
        elif name == "onnx_path":
            require(figure == "" or is_plain(figure), what, figure)
        elif name == "onnx_sha256":
            require(isinstance(figure, str) and _HASH.fullmatch(figure) is not None, what, figure)
        elif name == "rejected":
            require(isinstance(figure, str) and len(figure) <= _LONGEST, what, figure)
        elif name in ("stages_s", "figures"):
            require(isinstance(figure, Mapping) and len(figure) <= _MOST and all(map(is_number, figure.values())), what, figure)
        elif name in ("uncounted", "notes"):
            require(
                isinstance(figure, list | tuple) and len(figure) <= _MOST and all(isinstance(text, str) for text in figure), what, figure
            )
    return _made(Outcome.from_json, given, f"an outcome from {source}")


def parse_plan(value: object, source: str) -> Plan:
    """Return what `Plan.to_json` wrote elsewhere; raises ForeignDataError for anything else."""
    what = f"a plan from {source}"
    require(isinstance(value, dict), what, value)
    assert isinstance(value, dict)
    for name in ("kept", "rank", "bits"):
        chosen = value.get(name, {})
        require(isinstance(chosen, dict) and len(chosen) <= _MOST and all(map(is_whole, chosen.values())), f"{name} of {what}", chosen)
    for name in ("temperature", "alpha", "resolution"):
        require(name not in value or is_number(value[name]), f"{name} of {what}", value.get(name))
    return _made(Plan.from_json, value, what)


def parse_environment(value: object, source: str) -> dict[str, Any]:
    """Return what `targets.environment` found elsewhere.

    Raises: ForeignDataError: another shape, or values that are not plain and finite.
    """
    what = f"the environment of {source}"
    require(isinstance(value, dict) and _is_plain_json(value, _DEEPEST), what, value)
    assert isinstance(value, dict)
    for name in ("cpu", "machine", "platform"):
        require(isinstance(value.get(name, ""), str), f"{name} in {what}", value.get(name))
    cores, isa, versions = value.get("cores_logical"), value.get("isa") or [], value.get("versions") or {}
    require(cores is None or (is_whole(cores) and cores > 0), f"cores_logical in {what}", cores)
    require(isinstance(isa, list) and all(isinstance(flag, str) for flag in isa), f"isa in {what}", isa)
    require(isinstance(versions, dict) and all(isinstance(v, str | None) for v in versions.values()), f"versions in {what}", versions)
    load = value.get("load_average") or []
    require(isinstance(load, list) and all(map(is_number, load)), f"load_average in {what}", load)
    for name in ("frequency_mhz", "max_frequency_mhz", "temperature_c"):
        require(value.get(name) is None or is_number(value[name]), f"{name} in {what}", value.get(name))
    return value


def printable(text: object, longest: int = _LONGEST) -> str:
    """Return a text from elsewhere as one line without control characters, which could move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:longest])


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= _LARGEST


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def require(holds: bool, what: str, value: object) -> None:
    """Raise ForeignDataError unless `holds`."""
    if not holds:
        raise ForeignDataError(f"what is received must be of its type, finite and within bounds, but got {repr(value)[:200]} for {what}")


def _object(value: object, known: set[str], what: str) -> dict[str, Any]:
    require(isinstance(value, dict) and value.keys() <= known, what, value)
    assert isinstance(value, dict)
    return value


def _made(make: Callable[[Mapping[str, Any]], T], value: Mapping[str, Any], what: str) -> T:
    try:
        return make(value)
    except Exception as error:  # a member that is missing, for one
        raise ForeignDataError(f"what is received must be whole, but got {type(error).__name__}: {first_line(error)} for {what}") from error


def _is_plain_json(value: object, deepest: int) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.isprintable()
    if isinstance(value, dict | list):
        members = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return deepest > 0 and len(members) <= _LONGEST and all(_is_plain_json(member, deepest - 1) for member in members)
    return value is None or isinstance(value, bool) or is_number(value)
