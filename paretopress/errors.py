"""Every error that paretopress raises on purpose: `InputError` for what the user handed over, `RunError` for what failed on the way."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

# where the code of Python, of installed packages and of this one lies
_NOT_USERS = tuple({*(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parent)})


def first_line(error: BaseException) -> str:
    """Return the first line of what was said, or the error's type if nothing was."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def typed_line(error: BaseException) -> str:
    """Return the error's type, and the first line of what was said if anything was."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def users_line(error: BaseException) -> str:
    """Return " (FILE:LINE)" of the innermost line of the user's own code that an error came through, "" if there is none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*_NOT_USERS, "<"))]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the up to three known names that are nearest to a wrong one, or the first ones if none is near."""
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3])


class ParetopressError(Exception):
    """Base of all errors of this package.

    Message form: `<rule>, but got <name=value> at <layer>`; `hint` says what to do. The CLI prints both without a traceback and
    leaves with `exit_code`: 2 for bad input, 1 for a failure.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(ParetopressError):
    """The user's model, data, budget, config or path cannot be used."""

    exit_code = 2


class ModelError(InputError):
    """The model is not a module, does not trace, or holds NaN."""


class RewriteError(ModelError):
    """A part of the model cannot be put in plain layers as it is called; intake leaves that part as it is."""


class DataError(InputError):
    """A split is empty, a shape is wrong, a label is out of range, or an input is NaN."""


class BudgetError(InputError):
    """The budget is not a positive number."""


class ConfigError(InputError):
    """A TOML file, option or spec says something that is not known."""


class RunFolderError(InputError):
    """The run folder exists, is missing, is in use, or is not a run."""


class TrustError(InputError):
    """A pickle, or what a study names, was to be loaded without `--trust`."""


class RunError(ParetopressError):
    """Something failed while working; in a search this fails one trial, and is recorded with it."""


class ForeignDataError(RunError):
    """What a database, an artifact store or a device answered is not what it must be; it is data, and nothing of it was used."""


class OutsideFolderError(ForeignDataError):
    """A path from elsewhere leads out of the folder that it must stay in."""


class CompressError(RunError):
    """A plan could not be carried out on the model."""


class RecoveryError(RunError):
    """Training diverged or its data loader died."""


class LoweringError(RunError):
    """ONNX export or quantisation failed."""


class ParityError(LoweringError):
    """The ONNX file does not compute what the torch module computes."""


class LatencyError(RunError):
    """A session failed, or too few blocks finished."""


class TargetLostError(RunError):
    """The target is out of reach, also after several attempts; in a search this pauses the run instead of failing a trial."""


class WorkerDiedError(RunError):
    """The process that evaluated a trial died or hung; the trial is tried once more, then recorded as failed."""


class OutOfTimeError(RunError):
    """The time of the run was over before a trial was."""


class BundleError(RunError):
    """A bundle is incomplete, altered, or fails its self-check."""


class SearchFailedError(RunError):
    """No trial could be completed, or no plan meets the budget."""


def error_named(name: str) -> type[ParetopressError] | None:
    """Return the error type of that name, None if this module has none: so an error that another process described is of its own type."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, ParetopressError) else None
