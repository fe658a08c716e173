"""Take a model out of what is around it: DataParallel, torch.compile, averaged weights, half or double precision, a choice of boxes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from paretopress.errors import ModelError, typed_line
from paretopress.intake.raw_heads import SsdHeads, is_ssd

# type of a wrapper, by its name -> the attribute that holds the model; torch.compile's class is private
_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


@dataclass(frozen=True, slots=True)
class PlainModel:
    """A model without wrappers, in float32; `notes` say in a sentence each what was taken off or changed."""

    module: nn.Module
    notes: tuple[str, ...] = ()


def plain_model(model: nn.Module) -> PlainModel:
    """Return a model as it is without wrappers, its half or double weights as float32; the one that was handed over stays as it is.

    Raises: ModelError: it is TorchScript, or its weights have to be widened and it cannot be copied.
    """
    notes = []
    while (inner := _inner(model)) is not None:
        notes.append(f"the wrapper {type(model).__name__} was taken off: the model inside of it is compressed")
        model = inner
    if is_ssd(model):
        notes.append("the detector puts out its raw heads, for photos in [0, 1] of its own size: the decoder ssd reads boxes from them")
        model = SsdHeads(copied(model))
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "a model must be eager PyTorch, but got TorchScript, whose layers cannot be changed",
            "Hand over the module that it was scripted or traced from, or an ONNX file exported from it.",
        )
    wrapped = [name for name, part in model.named_modules() if _inner(part) is not None]
    kinds = sorted({str(part.dtype).removeprefix("torch.") for part in model.parameters() if part.is_floating_point()} - {"float32"})
    if not wrapped and not kinds:
        return PlainModel(model, tuple(notes))
    model = copied(model)
    for name in wrapped:
        part: nn.Module | None = model.get_submodule(name)
        while part is not None and (inner := _inner(part)) is not None:
            part = inner
        assert part is not None
        model.set_submodule(name, part)
        notes.append(f"the wrapper of {name} was taken off")
    if kinds:
        model = model.float()
        notes.append(f"the weights of type {', '.join(kinds)} were taken to float32: all that is compressed is compared with that")
    return PlainModel(model, tuple(notes))


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a model, also of one that holds the results of a forward, as torch.nn.utils.weight_norm's layers do.

    Raises: ModelError: it cannot be copied.
    """
    computed = (
        value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor) and value.grad_fn is not None
    )
    try:
        return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # whatever a module that holds something odd raises
        hint = "Does it hold an open file, a lock, or a generator? Make that outside of the model."
        raise ModelError(f"the model must be copyable by copy.deepcopy, but got {typed_line(error)}", hint) from error


def _inner(model: nn.Module) -> nn.Module | None:
    """Return the model inside of a wrapper, None where it is none."""
    name = "module" if isinstance(model, AveragedModel) else _WRAPPERS.get(type(model).__name__, "")
    inner = getattr(model, name, None) if name else None
    return inner if isinstance(inner, nn.Module) else None


def without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put before all names, such as "_orig_mod.module." or Lightning's "model.".

    The prefix is the one under which all wanted names are found; names without it (a loss's weights) are left out. Where there is none the
    state dict is returned as it is.
    """
    if not wanted or all(name in state for name in wanted):
        return dict(state)
    longest = max(wanted, key=len)
    for name in state:
        prefix = name.removesuffix(longest)
        if prefix != name and prefix.endswith(".") and all(prefix + key in state for key in wanted):
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key.removeprefix("module."): value for key, value in state.items()}
