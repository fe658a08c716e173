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
    from paretopress.api import compress, resume
    from paretopress.config import RunConfig
    from paretopress.core.outcome import Budget
    from paretopress.deploy.verify import Verification, verify_bundle
    from paretopress.errors import InputError, ParetopressError, RunError
    from paretopress.evaluators.registry import EVALUATORS, Evaluator
    from paretopress.intake.datasets.data import Data
    from paretopress.report.live import REPORTERS, Progress, Reporter
    from paretopress.report.point import Point
    from paretopress.run.result import Result, open_result
    from paretopress.runtimes.registry import RUNTIMES
    from paretopress.runtimes.runtime import Runtime
    from paretopress.search.samplers.registry import SAMPLERS, Sampler
    from paretopress.targets.open_target import TARGETS
    from paretopress.targets.target import Target
    from paretopress.tasks.base import Task
    from paretopress.tasks.choose import TASKS

__version__ = "0.1.0"

__all__ = [
    "EVALUATORS",
    "REPORTERS",
    "RUNTIMES",
    "SAMPLERS",
    "TARGETS",
    "TASKS",
    "Budget",
    "Data",
    "Evaluator",
    "InputError",
    "ParetopressError",
    "Point",
    "Progress",
    "Reporter",
    "Result",
    "RunConfig",
    "RunError",
    "Runtime",
    "Sampler",
    "Target",
    "Task",
    "Verification",
    "__version__",
    "compress",
    "open_result",
    "resume",
    "verify_bundle",
]

# name -> the module that it is in
_HOMES = {
    "Budget": "core.outcome",
    "Data": "intake.datasets.data",
    "EVALUATORS": "evaluators.registry",
    "Evaluator": "evaluators.registry",
    "InputError": "errors",
    "ParetopressError": "errors",
    "Point": "report.point",
    "Progress": "report.live",
    "REPORTERS": "report.live",
    "RUNTIMES": "runtimes.registry",
    "Reporter": "report.live",
    "Result": "run.result",
    "RunConfig": "config",
    "RunError": "errors",
    "Runtime": "runtimes.runtime",
    "SAMPLERS": "search.samplers.registry",
    "Sampler": "search.samplers.registry",
    "TARGETS": "targets.open_target",
    "TASKS": "tasks.choose",
    "Target": "targets.target",
    "Task": "tasks.base",
    "Verification": "deploy.verify",
    "open_result": "run.result",
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
