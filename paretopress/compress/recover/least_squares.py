"""Ridge least squares around the weights that are there, with the ridge chosen on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, slots=True)
class Fit:
    """An affine map: weight (outputs, features), bias (outputs,); `error_left` is its squared error over the start's, on held-out rows."""

    weight: Tensor
    bias: Tensor
    error_left: float


@dataclass(frozen=True, slots=True)
class Start:
    """The affine map to improve: weight (outputs, features), bias (outputs,); `frees_bias` allows another bias."""

    weight: Tensor
    bias: Tensor
    frees_bias: bool


def _as_it_is(weight: Tensor, centred: Tensor) -> Tensor:
    return weight


def fit_near(x: Tensor, target: Tensor, start: Start, held: int, onto: Callable[[Tensor, Tensor], Tensor] = _as_it_is) -> Fit:
    """Return the affine map from x to the target that errs least on held-out rows, of ridge solutions around the start and the start.

    A solution minimises |x W' + b - target|^2 + ridge * |W - W0|^2, with the ridge relative to the mean square of a feature.

    Args:
        x: (rows, features), target: (rows, outputs), float32. held: rows at the end that solutions are judged by, not made from.
        onto: maps a solution (outputs, features) and the centred x to one of the form that the layer can take.
    Source: He, Zhang and Sun 2017, "Channel pruning for accelerating very deep neural networks", section 3.1, equation 1 in W.
    """
    used = len(x) - held
    x_mean, target_mean = (part[:used].mean(0) if start.frees_bias else torch.zeros_like(part[0]) for part in (x, target))
    centred = x[:used] - x_mean
    missing = target[:used] - target_mean - centred @ start.weight.T
    if not start.frees_bias:
        missing = missing - start.bias

    def judged(weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        return float((x[used:] @ weight.T + bias - target[used:]).square().sum()), weight, bias

    def with_bias(weight: Tensor) -> tuple[float, Tensor, Tensor]:
        return judged(weight, target_mean - weight @ x_mean if start.frees_bias else start.bias)

    first = judged(start.weight, start.bias)
    solved = (onto(start.weight + change, centred) for change in _changes(centred, missing))
    error, weight, bias = min([first, with_bias(start.weight), *map(with_bias, solved)], key=lambda found: found[0])
    return Fit(weight, bias, error / max(first[0], 1e-30))


def _changes(x: Tensor, missing: Tensor) -> Iterator[Tensor]:
    """Yield a change of the weights (outputs, features) for each ridge.

    With fewer rows than features the rows' products are inverted instead of the features': the same solution, by the push-through identity.
    """
    few = len(x) < x.shape[1]
    gram = (x @ x.T if few else x.T @ x).double()
    right = (missing if few else x.T @ missing).double()
    size = float(gram.diagonal().sum()) / x.shape[1]
    if size <= 0.0:
        return
    for ridge in _RIDGES:
        factor = torch.linalg.cholesky(gram + ridge * size * torch.eye(len(gram), dtype=gram.dtype))
        solution = torch.cholesky_solve(right, factor).to(x.dtype)
        yield (x.T @ solution if few else solution).T


def onto_rank(rank: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what maps weights (outputs, features) to those of that rank whose outputs on the centred rows are nearest.

    Source: Zhang et al. 2015, "Accelerating very deep convolutional networks", section 3.1: the outputs' principal components.
    """

    def nearest(weight: Tensor, centred: Tensor) -> Tensor:
        outputs = (centred @ weight.T).double()
        axes = torch.linalg.eigh(outputs.T @ outputs).eigenvectors[:, -rank:].to(weight.dtype)
        projected: Tensor = axes @ (axes.T @ weight)
        return projected

    return nearest
