"""Names for arrays that are passed around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt

# the inputs of a model, or its outputs, in their order
Arrays: TypeAlias = tuple[npt.NDArray[Any], ...]
# input name -> array (N, ...)
Feed: TypeAlias = Mapping[str, npt.NDArray[Any]]
# inputs of N items and their labels (N, ...)
Batch: TypeAlias = tuple[Arrays, npt.NDArray[Any]]
