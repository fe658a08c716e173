"""Compatibility of a process with a run: hashes of model, data, metric and settings; target and versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

from paretopress.errors import RunFolderError

# raised when the same parts are named in another way
FORMAT = 2
_FORMAT = "format"
_PACKAGES = ("torch", "torchvision", "onnxruntime", "onnx", "numpy", "scipy", "fvcore")
_LONGEST_SHOWN = 80
_HEX_SHOWN = 12
_HINTS = {
    "code": "Go on with the version of paretopress that the run was started with, or start a new run.",
    "versions": "Install the versions that the run was started with, or start a new run.",
    "target": "Measure on the machine, and within the limits, that the run was started with, or start a new run.",
    "settings": "Restore config.json, or start a new run.",
}
_OTHER_PARTS = "Hand over what the run was started with, or start a new run: what was found before does not hold for another."

Identity = Mapping[str, Any]


def versions() -> dict[str, str]:
    """Return the versions that decide what is computed, by package; "" of one that is not installed."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def differences(theirs: Identity, ours: Identity) -> dict[str, str]:
    """Return part -> what it is there and what it is here, of the parts in `ours` that differ; of a part with entries, each entry."""
    found: dict[str, str] = {}
    for name, mine in ours.items():
        other = theirs.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            inner = differences(other, {**dict.fromkeys(other), **mine})
            found |= {f"{name}: {key}": shown for key, shown in inner.items()}
        elif _plain(mine) != _plain(other):
            found[name] = f"{_shown(other)} there, {_shown(mine)} here"
    return found


def demand_same(theirs: Identity, ours: Identity, who: str) -> None:
    """Raise RunFolderError, with every difference, if the parts in `ours` are not those of the run; `who` must have them."""
    if theirs.get(_FORMAT) != FORMAT:
        raise RunFolderError(
            f"{who} must be compared with what the run was started with, but a version of paretopress started it that named model and data "
            f"in another way, format={theirs.get(_FORMAT, 1)} instead of {FORMAT}",
            "Go on with the version that the run was started with, or start a new run. `paretopress export` works on what it found.",
        )
    found = differences(theirs, ours)
    if found:
        hints = dict.fromkeys(_HINTS.get(name.partition(":")[0], _OTHER_PARTS) for name in found)
        listed = "; ".join(f"{name} ({shown})" for name, shown in found.items())
        raise RunFolderError(f"{who} must have what the run was started with, but got another {listed}", " ".join(hints))


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    head, _, remark = text.partition(" ")
    if len(head) == 64 and not set(head) - set("0123456789abcdef"):
        return f"{head[:_HEX_SHOWN]}... {remark}".rstrip()
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
