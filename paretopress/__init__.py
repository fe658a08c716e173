"""paretopress: hand over a trained model, its data and a latency budget; get a measured Pareto front of compressed models.

What is named here is loaded at its first use (PEP 562): torch takes seconds, and the command line rarely needs it at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretopress import api as api
    from paretopress.api import Result, compress, open_result, resume
    from paretopress.core.outcome import Budget
    from paretopress.deploy.verify import Verification, verify_bundle
    from paretopress.errors import InputError, ParetopressError, RunError
    from paretopress.intake.datasets.data import Data

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Data",
    "InputError",
    "ParetopressError",
    "Result",
    "RunError",
    "Verification",
    "__version__",
    "compress",
    "open_result",
    "resume",
    "verify_bundle",
]

_HOMES = {
    "Budget": "core.outcome",
    "Data": "intake.datasets.data",
    "InputError": "errors",
    "ParetopressError": "errors",
    "Result": "api",
    "RunError": "errors",
    "Verification": "deploy.verify",
    "open_result": "api",
    "resume": "api",
    "verify_bundle": "deploy.verify",
}


def __getattr__(name: str) -> Any:
    if name == "api":
        return import_module("paretopress.api")
    if name not in _HOMES:
        raise AttributeError(f"module 'paretopress' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"paretopress.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Door(ModuleType):
    """This package as a module whose `compress` is the function, though a package of that name is loaded beside it."""

    @property
    def compress(self) -> Any:
        """`paretopress.api.compress`."""
        return import_module("paretopress.api").compress

    @compress.setter
    def compress(self, package: ModuleType) -> None:
        """Do nothing: the import system binds the package here when it is loaded, and finds it by its full name."""


sys.modules[__name__].__class__ = _Door
