"""Further figures of a candidate's file, beside latency, accuracy, MACs and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from paretopress.core.arrays import Feed
from paretopress.core.registry import Registry
from paretopress.errors import RunError, typed_line


class Evaluator(Protocol):
    """Measures one figure of an ONNX file; its name in the registry says the unit, e.g. "energy_mj"."""

    def __call__(self, path: Path, feed: Feed, /) -> float:
        """Return the figure, a finite number.

        Args:
            path: the file, as it ships. feed: input name -> array of batch 1, real validation items.
        """
        ...


EVALUATORS = Registry[Evaluator]("evaluator", {})


def further_figures(names: Sequence[str], path: Path, feed: Feed) -> dict[str, float]:
    """Return name -> figure of a file.

    Raises: ConfigError: there is no evaluator of a name. RunError: one failed, or returned what is not a finite number.
    """
    return {name: _figure(name, EVALUATORS.get(name), path, feed) for name in names}


def _figure(name: str, evaluator: Evaluator, path: Path, feed: Feed) -> float:
    try:
        figure = float(evaluator(path, feed))
    except Exception as error:  # of the user's own code
        raise RunError(f"an evaluator must return a figure, but {name} got {typed_line(error)} at {path.name}") from error
    if not math.isfinite(figure):
        raise RunError(f"an evaluator must return a finite number, but got {name}={figure}")
    return figure
