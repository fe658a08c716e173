"""Cut entries out of modules and parameters: output channels, input channels, the values of a norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paretopress.core.model_graph import Role
from paretopress.errors import CompressError

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
_Norm = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm
_STATISTICS = ("running_mean", "running_var")


def entries_of(module: nn.Module, path: str, role: Role, axis: int = 0) -> int:
    """Return how many entries a part has: output or input channels, or values."""
    part = _submodule(module, path)
    if part is None:
        return int(_tensor(module, path).shape[axis])
    if isinstance(part, nn.Embedding):
        return part.embedding_dim
    if isinstance(part, nn.Linear):
        return part.in_features if role is Role.INPUTS else part.out_features
    if isinstance(part, Convolution):
        return part.in_channels if role is Role.INPUTS else part.out_channels
    return _values(part)


def _values(norm: nn.Module) -> int:
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return int(norm.normalized_shape[-1])
    count = getattr(norm, "num_features", None) or getattr(norm, "num_channels", None) or getattr(norm, "num_parameters", None)
    if not isinstance(count, int):
        raise CompressError(f"only layers and norms can be cut, but got {type(norm).__name__}")
    return count


def keep_entries(module: nn.Module, path: str, role: Role, keep: Sequence[int], axis: int = 0) -> None:
    """Keep some entries of a part of a module, in place, and drop the others; see `entries_of`."""
    part = _submodule(module, path)
    if part is None:
        _replace(module, path, _tensor(module, path).index_select(axis, torch.tensor(keep)))
    elif isinstance(part, nn.Embedding):
        _select(part, "weight", keep, 1)
        part.embedding_dim = len(keep)
    elif isinstance(part, nn.Linear):
        _keep_of_linear(part, role, keep)
    elif isinstance(part, Convolution):
        _keep_of_convolution(part, role, keep)
    else:
        _keep_values(part, keep)


def _keep_of_linear(layer: nn.Linear, role: Role, keep: Sequence[int]) -> None:
    if role is Role.INPUTS:
        _select(layer, "weight", keep, 1)
        layer.in_features = len(keep)
    else:
        _select(layer, "weight", keep, 0)
        _select(layer, "bias", keep, 0)
        layer.out_features = len(keep)


def _keep_of_convolution(layer: Convolution, role: Role, keep: Sequence[int]) -> None:
    """A grouped convolution keeps whole groups: its outputs and inputs are cut one after the other, and the groups with the inputs."""
    transposed, groups = isinstance(layer, Transposed), layer.groups
    if role is Role.INPUTS:
        each = layer.in_channels // groups
        if groups == 1 or transposed:  # a transposed convolution has a row for each input of all groups
            _select(layer, "weight", keep, 0 if transposed else 1)
        layer.in_channels = len(keep)
        layer.groups = len(keep) // each if groups > 1 else 1
        return
    if groups == 1 or not transposed:
        _select(layer, "weight", keep, 1 if transposed else 0)
    _select(layer, "bias", keep, 0)
    layer.out_channels = len(keep)


def _keep_values(norm: nn.Module, keep: Sequence[int]) -> None:
    count = _values(norm)
    for name in ("weight", "bias", *_STATISTICS):
        _select(norm, name, keep, 0)
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        norm.normalized_shape = (len(keep),)
    elif isinstance(norm, nn.GroupNorm):
        norm.num_groups, norm.num_channels = norm.num_groups * len(keep) // count, len(keep)
    elif isinstance(norm, nn.PReLU):
        norm.num_parameters = len(keep)
    elif isinstance(norm, _Norm):
        norm.num_features = len(keep)


def silence_entries(module: nn.Module, path: str, role: Role, gone: Sequence[int], axis: int = 0) -> None:
    """Let some entries of a part put out zero, in place; inputs stay as they are, and a layer norm leaves them out of its statistics."""
    part = _submodule(module, path)
    with torch.no_grad():
        if part is None:
            _tensor(module, path).index_fill_(axis, torch.tensor(gone), 0.0)
        elif role is Role.INPUTS:
            return
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
            kept = sorted(set(range(_values(part))) - set(gone))
            module.set_submodule(path, _OverSome(part, kept))
        elif isinstance(part, nn.PReLU):
            return
        else:
            axis = 1 if isinstance(part, nn.Embedding | Transposed) else 0
            for name in ("weight", "bias", "running_mean"):
                value = getattr(part, name, None)
                if isinstance(value, Tensor):
                    value.index_fill_(axis if name == "weight" else 0, torch.tensor(gone), 0.0)


class _OverSome(nn.Module):
    """A layer norm or RMS norm over some of its features; the others put out zero."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, kept: Sequence[int]) -> None:
        super().__init__()
        self.norm, self.kept, self.features = norm, list(kept), _values(norm)
        _keep_values(norm, kept)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features, of the shape of `x`."""
        out = torch.zeros_like(x)
        out[..., self.kept] = self.norm(x[..., self.kept])
        return out


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _tensor(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), name)
    return value


def _replace(module: nn.Module, path: str, value: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    _put(module.get_submodule(owner), name, value)


def _select(module: nn.Module, name: str, keep: Sequence[int], axis: int) -> None:
    value = getattr(module, name, None)
    if isinstance(value, Tensor):
        _put(module, name, value.detach().index_select(axis, torch.tensor(keep)))


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    before = getattr(module, name)
    made = nn.Parameter(value.detach().clone(), requires_grad=before.requires_grad) if isinstance(before, nn.Parameter) else value.clone()
    setattr(module, name, made)
