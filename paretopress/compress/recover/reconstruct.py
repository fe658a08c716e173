"""Least-squares reconstruction: re-solve weights behind a compressed layer so that outputs match the original's, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from paretopress.compress.apply import Compressed
from paretopress.compress.prune.branches import is_add
from paretopress.compress.recover.least_squares import Start, fit_near, onto_rank
from paretopress.compress.recover.linear_view import LinearView, linear_view
from paretopress.compress.recover.patch_sampling import PatchSampling
from paretopress.core.model_inputs import Inputs, channels_last, size_of, tensors

_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_ROWS = 8192
_HELD_SHARE = 0.25
_FEWEST_HELD = 24  # rows that can tell a good solution from luck
# a squared error below this share of the outputs' mean square is rounding: the layer is as it was
_NO_ERROR = 1e-8
# below this share of the median, a batch-norm scale counts as none: dividing by it would blow the weights up
_NO_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class _Unit:
    """A layer with what follows it linearly: `end` is its batch norm, or the layer; `add` what sums `end` and `other`, or None.

    `channels_last` is where a Linear has them.
    """

    layer: fx.Node
    norm: fx.Node | None
    add: fx.Node | None
    other: fx.Node | None
    channels_last: bool

    @property
    def end(self) -> fx.Node:
        return self.norm or self.layer


class Reconstruction:
    """Holds what the layers of one original put out on calibration images, and re-solves its compressed copies to put out the same.

    Layers are solved in the order of the model, each on what the layers before it put out by then. A layer before a sum also makes up
    for what the other side of the sum is off. Batch norm counts as part of the layer before it, and is set to the new statistics.
    Source: He, Zhang and Sun 2017, "Channel pruning for accelerating very deep neural networks", sections 3.1 and 3.3.
    """

    def __init__(self, original: fx.GraphModule, inputs: Inputs, seed: int) -> None:
        """Run the original.

        Args:
            original: in eval mode, on the CPU. inputs: a batch of training items.
        """
        self._inputs = tuple(map(channels_last, tensors(inputs)))
        self._positions = PatchSampling(size_of(inputs), _ROWS, seed)
        ends = {node.name: False for node in original.graph.nodes if _norm_of(original, node) is not None}
        ends |= {node.name: unit.channels_last for unit in _units(original) for node in (unit.end, unit.add) if node is not None}
        recorder = _Recorder(original, ends, self._positions)
        with torch.no_grad():
            recorder.run(*self._inputs)
        self._targets = recorder.rows

    def apply(self, compressed: Compressed) -> dict[str, float]:
        """Re-solve in place; leave the module in eval mode on the CPU.

        Returns: layer -> squared error on held-out images over that before, for the layers that no longer put out the same.
        """
        student = compressed.module.cpu().eval()
        solver = _Solver(student, self._targets, compressed.kept.outputs, self._positions)
        with torch.no_grad():
            solver.run(*self._inputs)
        return solver.error_left


class _Recorder(fx.Interpreter):
    """Runs a module and keeps the sampled rows of some nodes."""

    def __init__(self, module: fx.GraphModule, names: Mapping[str, bool], positions: PatchSampling) -> None:
        """Take the names with whether the channels of the node are the last axis."""
        super().__init__(module)
        self._names, self._positions = names, positions
        self.rows: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        last = self._names.get(n.name)
        if last is not None and isinstance(value, Tensor) and self._positions.fit(value, channels_last=last):
            self.rows[n.name] = self._positions.rows(value, channels_last=last)
        return value


class _Solver(fx.Interpreter):
    """Runs a compressed module; before a layer runs that would put out something else than in the original, it is solved for."""

    def __init__(
        self,
        student: fx.GraphModule,
        targets: Mapping[str, Tensor],
        kept: Mapping[str, tuple[int, ...]],
        positions: PatchSampling,
    ) -> None:
        super().__init__(student)
        self._targets, self._kept, self._positions = targets, kept, positions
        self._units = {unit.layer: unit for unit in _units(student)}
        self._settled: set[fx.Node] = set()
        self.error_left: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> object:
        if n in self._units:
            self._solve(self._units[n])
        elif n not in self._settled:
            self._recalibrate(n)
        return super().run_node(n)

    def _recalibrate(self, node: fx.Node) -> None:
        """Set the statistics of a batch norm that comes after no layer solved for, if it would put out something else."""
        norm, recorded = _norm_of(self.module, node), self._targets.get(node.name)
        if norm is None or recorded is None:
            return
        rows = self._positions.rows(self.env[node.all_input_nodes[0]])
        scale, shift = _affine(norm)
        if not _equal(scale * rows + shift, recorded[:, self._remaining_channels(node)]):
            _set_statistics(norm, rows)

    def _solve(self, unit: _Unit) -> None:
        view = linear_view(self.module.get_submodule(str(unit.layer.target)))
        x = self.env[unit.layer.all_input_nodes[0]]
        target = self._target(unit)
        if view is None or target is None or not self._fits(unit, x):
            return
        rows = self._positions.patches(x if view.before is None else view.before(x), view.window)
        norm = None if unit.norm is None else self.module.get_submodule(str(unit.norm.target))
        assert norm is None or isinstance(norm, _Norm)
        left = _refit(view, norm, rows, target)
        if left is not None:
            self.error_left[str(unit.layer.target)] = left
        if unit.norm is not None:
            self._settled.add(unit.norm)

    def _fits(self, unit: _Unit, x: Tensor) -> bool:
        if not unit.channels_last:
            return x.ndim == 4
        return self._positions.fit(x, channels_last=True) and (x.ndim == 2 or unit.norm is None)

    def _target(self, unit: _Unit) -> Tensor | None:
        """Return (rows, outputs) that the unit is to put out, or None where the original did not record it."""
        here = self._remaining_channels(unit.layer)
        other = None if unit.other is None else self.env.get(unit.other)
        last = unit.channels_last
        summed = unit.add is not None and unit.add.name in self._targets
        if summed and isinstance(other, Tensor) and self._positions.fit(other, channels_last=last):
            assert unit.add is not None
            whole, there = self._targets[unit.add.name][:, here], self._positions.rows(other, channels_last=last)
            if whole.shape == there.shape:
                return whole - there
        recorded = self._targets.get(unit.end.name)
        return None if recorded is None else recorded[:, here]

    def _remaining_channels(self, node: fx.Node) -> slice | list[int]:
        """Return which of the original's output channels a module still has."""
        kept = self._kept.get(str(node.target))
        return slice(None) if kept is None else list(kept)


def _refit(view: LinearView, norm: _Norm | None, rows: Tensor, target: Tensor) -> float | None:
    """Solve for a layer and its batch norm, put the solution in place, and return the error left; None where it was left alone."""
    bias = torch.zeros(len(view.matrix)) if view.bias is None else view.bias.detach()
    scale, shift = (torch.ones_like(bias), torch.zeros_like(bias)) if norm is None else _affine(norm)
    start = Start(scale[:, None] * view.matrix, scale * bias + shift, frees_bias=norm is not None or view.bias is not None)
    held = int(len(rows) * _HELD_SHARE)
    if held < _FEWEST_HELD or _equal(rows @ start.weight.T + start.bias, target):
        return None
    onto = () if view.rank is None else (onto_rank(view.rank),)
    fit = fit_near(rows, target, start, held, *onto)
    if norm is None:
        view.write(fit.weight)
        if view.bias is not None:
            view.bias.copy_(fit.bias)
        return fit.error_left
    scale = torch.where(scale.abs() > _NO_SCALE * scale.abs().median(), scale, torch.ones_like(scale))
    matrix = fit.weight / scale[:, None]
    view.write(matrix)
    _set_statistics(norm, rows @ matrix.T + bias)
    mean, deviation = _statistics(norm)
    norm.weight.copy_(scale * deviation)
    norm.bias.copy_(fit.bias - scale * (bias - mean))
    return fit.error_left


def _equal(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).square().mean() <= _NO_ERROR * wanted.square().mean())


def _affine(norm: _Norm) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (C,) of a batch norm in eval mode."""
    mean, deviation = _statistics(norm)
    scale = (norm.weight.detach() if norm.affine else torch.ones_like(mean)) / deviation
    return scale, (norm.bias.detach() if norm.affine else torch.zeros_like(mean)) - scale * mean


def _statistics(norm: _Norm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, (norm.running_var + norm.eps).sqrt()


def _set_statistics(norm: _Norm, rows: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(rows.mean(0))
    norm.running_var.copy_(rows.var(0))


def _units(module: fx.GraphModule) -> list[_Unit]:
    """Return the layers that are called once, each with its batch norm and the sum that comes after it."""
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    calls = [str(node.target) for node in order if node.op == "call_module"]
    units = []
    for node in order:
        if node.op != "call_module" or calls.count(str(node.target)) > 1 or len(node.all_input_nodes) != 1:
            continue
        layer = module.get_submodule(str(node.target))
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.Sequential):
            continue
        last = isinstance(layer[0] if isinstance(layer, nn.Sequential) and len(layer) else layer, nn.Linear)
        follower = _only_user(node)
        norm = follower if follower is not None and _takes_affine(module, follower, calls) else None
        add = _only_user(norm or node)
        others = [] if add is None or not is_add(add) else [arg for arg in add.all_input_nodes if arg is not (norm or node)]
        if add is not None and len(others) == 1 and order[others[0]] < order[node]:
            units.append(_Unit(node, norm, add, others[0], last))
        else:
            units.append(_Unit(node, norm, None, None, last))
    return units


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _takes_affine(module: fx.GraphModule, node: fx.Node, calls: list[str]) -> bool:
    """Return whether the node is a batch norm with scales and statistics of its own, called once."""
    norm = _norm_of(module, node)
    return norm is not None and norm.affine and calls.count(str(node.target)) == 1


def _norm_of(module: nn.Module, node: fx.Node) -> _Norm | None:
    """Return the batch norm with statistics that a node calls, or None."""
    norm = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return norm if isinstance(norm, _Norm) and norm.running_mean is not None else None
