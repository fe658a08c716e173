"""Prune hidden units of LSTM and GRU layers: from every gate, from the recurrence, and from the layers that read them.

A layer of two directions loses the same units in both; what reads it reads all units of the first, then all of the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paretopress.core.model_graph import ChannelGroup

Recurrent = nn.LSTM | nn.GRU


def gates(layer: Recurrent) -> int:
    """Return how many blocks of hidden_size rows the weights have."""
    return 4 if isinstance(layer, nn.LSTM) else 3


def has_plain_units(layer: Recurrent) -> bool:
    """Return whether a unit can go: outputs are the hidden state itself."""
    return layer.proj_size == 0


def directions(layer: Recurrent) -> int:
    """Return how many outputs of a position each unit has."""
    return 2 if layer.bidirectional else 1


def columns_of_units(module: nn.Module, group: ChannelGroup, units: Sequence[int]) -> list[int]:
    """Return the inputs of what reads a recurrent layer of the original that are outputs of some units, in rising order."""
    layer = module.get_submodule(group.layers[0])
    assert isinstance(layer, Recurrent)
    return [direction * group.channels + unit for direction in range(directions(layer)) for unit in sorted(units)]


def prune_units(module: nn.Module, group: ChannelGroup, units: Sequence[int]) -> None:
    """Remove hidden units of a recurrent layer in place, and the columns of the layers that read them."""
    layer = module.get_submodule(group.layers[0])
    assert isinstance(layer, Recurrent)
    kept = sorted(set(range(layer.hidden_size)) - set(units))
    columns = columns_of_units(module, group, kept)
    rows = [gate * layer.hidden_size + unit for gate in range(gates(layer)) for unit in kept]
    for name, parameter in list(layer.named_parameters(recurse=False)):
        left = parameter.detach()[rows]
        if name.startswith("weight_hh"):
            left = left[:, kept]
        elif name.startswith("weight_ih") and "_l0" not in name:
            left = left[:, columns]
        setattr(layer, name, nn.Parameter(left.clone(), requires_grad=parameter.requires_grad))
    layer.hidden_size = len(kept)
    for name in group.feeds:
        _keep_columns(module.get_submodule(name), columns)


def _keep_columns(reader: nn.Module, kept: list[int]) -> None:
    if isinstance(reader, nn.Linear):
        reader.weight = nn.Parameter(reader.weight.detach()[:, kept].clone(), requires_grad=reader.weight.requires_grad)
        reader.in_features = len(kept)
        return
    assert isinstance(reader, Recurrent)
    for name in _first_weights(reader):
        weight = reader.get_parameter(name)
        setattr(reader, name, nn.Parameter(weight.detach()[:, kept].clone(), requires_grad=weight.requires_grad))
    reader.input_size = len(kept)


def _first_weights(reader: Recurrent) -> list[str]:
    return ["weight_ih_l0", "weight_ih_l0_reverse"][: directions(reader)]


def silence_units(module: nn.Module, group: ChannelGroup, units: Sequence[int]) -> None:
    """Set to zero, in place, all that makes hidden units other than zero: their rows in every gate."""
    layer = module.get_submodule(group.layers[0])
    assert isinstance(layer, Recurrent)
    rows = [gate * layer.hidden_size + unit for gate in range(gates(layer)) for unit in units]
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter[rows] = 0.0


def least_important_units(module: nn.Module, group: ChannelGroup, keep: int) -> list[int]:
    """Return the hidden units that go when `keep` remain, in rising order: those with the least mean norm of rows and read columns."""
    layer = module.get_submodule(group.layers[0])
    assert isinstance(layer, Recurrent)
    scores = torch.zeros(layer.hidden_size)
    for name, parameter in layer.named_parameters(recurse=False):
        if name.startswith("weight"):
            rows = parameter.detach().unflatten(0, (gates(layer), layer.hidden_size))  # type: ignore[no-untyped-call]  # untyped in torch
            scores += _relative(rows.transpose(0, 1).flatten(1).norm(dim=1))
    for name in group.feeds:
        reader = module.get_submodule(name)
        names = _first_weights(reader) if isinstance(reader, Recurrent) else ["weight"]
        norms = torch.cat([reader.get_parameter(name).detach() for name in names]).norm(dim=0)
        scores += _relative(norms.unflatten(0, (directions(layer), layer.hidden_size)).norm(dim=0))
    dropped: list[int] = torch.argsort(scores, stable=True)[: layer.hidden_size - keep].sort().values.tolist()
    return dropped


def _relative(norms: Tensor) -> Tensor:
    return norms / norms.mean().clamp_min(1e-12)
