"""Compare the outputs of two models, up to the rounding of sums in another order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# a reordered sum of n terms is off by about sqrt(n) roundings (Higham and Mary 2019, "A new approach to probabilistic rounding error
# analysis", theorem 2.4); four times that is seen in one of 10,000 sums
_DEVIATIONS = 4.0
_FEWEST_TERMS = 64
# in double precision nine digits more are computed than are compared: what differs by this did not come from rounding
EXACT = 1e-6


@dataclass(frozen=True, slots=True)
class Difference:
    """How outputs differ, in words, and the largest difference as a share of the values' size; infinite where they cannot be compared."""

    text: str
    share: float = math.inf

    def __str__(self) -> str:
        return self.text


def tolerance(model: nn.Module) -> float:
    """Return by how much a model's outputs may be off where sums are added in another order, as a share of their size.

    It is 4 roundings of the coarsest of its float types, times the root of the number of terms that its layers add up one after another.
    """
    terms = sum(weight.numel() // max(len(weight), 1) for weight in model.parameters() if weight.ndim > 1)
    return _DEVIATIONS * coarsest(model) * math.sqrt(max(terms, _FEWEST_TERMS))


def coarsest(model: nn.Module) -> float:
    """Return the rounding of the coarsest float type of the weights, that of float32 at least."""
    kinds = {part.dtype for part in model.parameters() if part.is_floating_point()}
    return max(torch.finfo(kind).eps for kind in (*kinds, torch.float32))


def difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], allowed: float) -> Difference | None:
    """Return the output that is off by the most, None if all are the same up to `allowed`; NaN and infinities are the same as themselves.

    The size of a value is its own, or the median of the output where that is larger: a score of -1e9 must hide nothing.
    """
    if wanted.keys() != found.keys():
        return Difference(f"outputs {', '.join(found) or 'none'} instead of {', '.join(wanted) or 'none'}")
    each = [_difference_of(name, wanted[name], found[name]) for name in wanted]
    worst = max(each, key=lambda one: one.share, default=Difference("", 0.0))
    return worst if worst.share > allowed else None


def _difference_of(name: str, wanted: Tensor, found: Tensor) -> Difference:
    if wanted.shape != found.shape or wanted.is_floating_point() != found.is_floating_point():
        kinds = [f"{part.dtype} of shape {tuple(part.shape)}" for part in (found, wanted)]
        return Difference(f"{' instead of '.join(kinds)} at its output {name}")
    if not wanted.is_floating_point():
        unequal = int((wanted != found).sum())
        return Difference(f"{unequal} of {wanted.numel()} other values at its output {name}", math.inf if unequal else 0.0)
    a, b = wanted.double(), found.double()
    finite = a.isfinite() & b.isfinite()
    if not torch.allclose(a[~finite], b[~finite], rtol=0.0, atol=0.0, equal_nan=True):
        return Difference(f"NaN or infinity at other places of its output {name}")
    a, b = a[finite], b[finite]
    if torch.equal(a, b):
        return Difference("", 0.0)
    sizes = a.abs()
    present = sizes[sizes > 0.0]
    typical = present.median() if len(present) else b.abs().max()
    share = float(((a - b).abs() / sizes.clamp_min(typical)).max())
    return Difference(f"a difference of {share:.2g} of the values' size at its output {name}", share)
