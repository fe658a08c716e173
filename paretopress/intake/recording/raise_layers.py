"""Raise functions that work with trained weights to layers that hold them: F.conv2d to nn.Conv2d, F.batch_norm to nn.BatchNorm2d.

So a subclass of a layer, a weight that is computed from parameters (weight norm, standardised weights), or a matrix product with a
parameter is the layer that it amounts to, and what can be done to a layer can be done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.intake.recording.recorder import MODULE, SHAPE

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_CONV_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_WEIGHTS = frozenset({"weight", "bias", "running_mean", "running_var"})


@dataclass(frozen=True, slots=True)
class _Found:
    """A function call with trained weights: what it is given, by name, and the tensors among it that are constants of the model."""

    given: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A function that can be a layer: the names of its arguments, their defaults, those that must be constants, and what makes the layer.

    `make` returns None for a call that no layer carries out.
    """

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    constants: tuple[str, ...]
    make: Callable[[_Found], nn.Module | None]


def _convolution(kind: Callable[..., nn.Module], *, transposed: bool = False) -> _Kind:
    def make(found: _Found) -> nn.Module | None:
        weight, given = found.tensors["weight"], found.given
        groups, axes = int(given["groups"]), weight.ndim - 2
        inputs, outputs = (len(weight), weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, len(weight))
        options = ("stride", "padding", "dilation", *(("output_padding",) if transposed else ()))
        values = {name: _along(given[name], axes) for name in options}
        return kind(inputs, outputs, tuple(weight.shape[2:]), groups=groups, bias="bias" in found.tensors, device="meta", **values)

    return _Kind(_TRANSPOSED if transposed else _CONV, _CONV_DEFAULTS, ("weight",), make)


def _along(value: object, axes: int) -> object:
    """Return one value for each axis; a padding in words as it is."""
    if isinstance(value, str):
        return value
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values if len(values) == axes else values[:1] * axes


def _linear(found: _Found) -> nn.Module | None:
    weight = found.tensors["weight"]
    return nn.Linear(weight.shape[1], len(weight), bias="bias" in found.tensors, device="meta") if weight.ndim == 2 else None


def _batch_norm(found: _Found) -> nn.Module | None:
    kind, mean, eps = _NORMS.get(len(found.shape)), found.tensors["running_mean"], float(found.given["eps"])
    return None if kind is None or found.given["training"] else kind(len(mean), eps, affine=_affine(found), device="meta")


def _layer_norm(found: _Found) -> nn.Module | None:
    shape = tuple(found.given["normalized_shape"])
    return nn.LayerNorm(shape, float(found.given["eps"]), _affine(found), bias="bias" in found.tensors, device="meta")


def _group_norm(found: _Found) -> nn.Module | None:
    return nn.GroupNorm(int(found.given["num_groups"]), found.shape[1], float(found.given["eps"]), _affine(found), device="meta")


def _affine(found: _Found) -> bool:
    """Return whether a normalisation scales or shifts; where it does one of the two alone, the other is given its neutral value."""
    return not found.tensors.keys().isdisjoint({"weight", "bias"})


def _embedding(found: _Found) -> nn.Module | None:
    rows, width = found.tensors["weight"].shape
    plain = found.given["max_norm"] is None
    return nn.Embedding(rows, width, found.given["padding_idx"], device="meta") if plain else None


def _prelu(found: _Found) -> nn.Module | None:
    return nn.PReLU(found.tensors["weight"].numel(), device="meta")


_AFFINE = {"weight": None, "bias": None, "eps": 1e-5}
_EMBEDDING_DEFAULTS = {"padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False}
_EMBEDDING = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_KINDS: dict[Any, _Kind] = {
    F.conv1d: _convolution(nn.Conv1d),
    F.conv2d: _convolution(nn.Conv2d),
    F.conv3d: _convolution(nn.Conv3d),
    F.conv_transpose1d: _convolution(nn.ConvTranspose1d, transposed=True),
    F.conv_transpose2d: _convolution(nn.ConvTranspose2d, transposed=True),
    F.conv_transpose3d: _convolution(nn.ConvTranspose3d, transposed=True),
    F.linear: _Kind(("input", "weight", "bias"), {"bias": None}, ("weight",), _linear),
    F.batch_norm: _Kind(
        ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5},
        ("running_mean", "running_var"),
        _batch_norm,
    ),
    torch.batch_norm: _Kind(
        ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled"),
        {},
        ("running_mean", "running_var"),
        _batch_norm,
    ),
    F.layer_norm: _Kind(("input", "normalized_shape", "weight", "bias", "eps"), _AFFINE, (), _layer_norm),
    F.group_norm: _Kind(("input", "num_groups", "weight", "bias", "eps"), _AFFINE, (), _group_norm),
    F.embedding: _Kind(_EMBEDDING, _EMBEDDING_DEFAULTS, ("weight",), _embedding),
    F.prelu: _Kind(("input", "weight"), {}, ("weight",), _prelu),
    torch.prelu: _Kind(("input", "weight"), {}, ("weight",), _prelu),
}


def raise_layers(root: nn.Module, graph: fx.Graph) -> None:
    """Put a layer in place of each function that works with constants of `root` as a layer would; the layers are added to `root`."""
    _products_to_linear(root, graph)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    layers: dict[tuple[Any, ...], str] = {}
    for node in list(graph.nodes):
        kind = _KINDS.get(node.target) if node.op == "call_function" else None
        if kind is None:
            continue
        found = _found(root, node, kind)
        layer = None if found is None else kind.make(found)
        if found is None or layer is None:
            continue
        key = (type(layer), layer.extra_repr(), *sorted((name, id(part)) for name, part in found.tensors.items()))
        if key not in layers:
            weight = str(read.target) if (read := _weight_of(node, kind)) is not None else ""
            layers[key] = _free_path(node, weight, called | _still_read(node, set(layer.state_dict())))
            called.add(layers[key])
            _give(layer, found.tensors)
            _put(root, layers[key], layer.eval())
        with graph.inserting_before(node):
            made = graph.call_module(layers[key], (found.given["input"],))
        made.meta |= node.meta
        node.replace_all_uses_with(made)
        reads = [source for source in node.all_input_nodes if source.op == "get_attr"]
        graph.erase_node(node)
        for source in reads:
            if not source.users:
                graph.erase_node(source)  # the layer may lie where the tensor was


def _still_read(node: fx.Node, names: set[str]) -> set[str]:
    """Return the tensors that others than a node read, but for those that a layer in their module's place would have too."""
    reads = (other for other in node.graph.nodes if other.op == "get_attr" and any(user is not node for user in other.users))
    return {str(read.target) for read in reads if str(read.target).rpartition(".")[2] not in names}


def _products_to_linear(root: nn.Module, graph: fx.Graph) -> None:
    """Spell `x @ w` and `addmm(b, x, w)` with a constant matrix as F.linear."""
    for node in list(graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        if node.target is torch.matmul and len(node.args) == 2 and not node.kwargs:
            (x, weight), bias = node.args, None
        elif node.target in (torch.addmm, "addmm") and len(node.args) == 3 and not node.kwargs:
            bias, x, weight = node.args
        else:
            continue
        matrix = _constant(root, weight)
        if matrix is None or matrix.ndim != 2 or _constant(root, x) is not None or (bias is not None and _constant(root, bias) is None):
            continue
        name = f"{str(weight.target).replace('.', '_')}_transposed"
        transposed = matrix.detach().t().contiguous()
        root.register_parameter(name, nn.Parameter(transposed)) if isinstance(matrix, nn.Parameter) else root.register_buffer(
            name, transposed
        )
        with graph.inserting_before(node):
            read = graph.get_attr(name)
            made = graph.call_function(F.linear, (x, read, bias))
        read.meta[SHAPE], read.meta[MODULE] = tuple(transposed.shape), node.meta.get(MODULE, "")
        made.meta |= node.meta
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _found(root: nn.Module, node: fx.Node, kind: _Kind) -> _Found | None:
    """Return what a call is given, None where a weight is no constant or an option is computed."""
    given = (
        {name: value for name, value in kind.defaults.items() if name in kind.names}
        | dict(zip(kind.names, node.args, strict=False))
        | dict(node.kwargs)
    )
    tensors: dict[str, Tensor] = {}
    for name in kind.names:
        value = given.get(name)
        if name == "input" or not isinstance(value, fx.Node):
            continue
        constant = _constant(root, value)
        if constant is None:
            return None
        tensors[name] = constant
    unknown = set(given) - set(kind.names)
    shape = node.args[0].meta.get(SHAPE, ()) if node.args and isinstance(node.args[0], fx.Node) else ()
    whole = all(name in tensors for name in kind.constants) and "input" in given and not unknown and tensors.keys() <= _WEIGHTS
    return _Found(given, tensors, shape) if whole else None


def _constant(root: nn.Module, node: object) -> Tensor | None:
    """Return the parameter or buffer that a node reads, None for another node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def _give(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a layer its weights and statistics; a weight becomes a parameter, which is trained with the others."""
    for name, value in tensors.items():
        if name in layer._buffers:
            layer._buffers[name] = value.detach()
        else:
            setattr(layer, name, value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach(), value.is_floating_point()))
    for name, parameter in list(layer.named_parameters()):
        if name not in tensors:  # a normalisation that scales without a shift, or the reverse
            setattr(layer, name, nn.Parameter((torch.ones if name == "weight" else torch.zeros)(parameter.shape)))
    if "num_batches_tracked" in layer._buffers:
        layer._buffers["num_batches_tracked"] = torch.tensor(0)


def _weight_of(node: fx.Node, kind: _Kind) -> fx.Node | None:
    """Return the node that reads the first constant of a call."""
    given = dict(zip(kind.names, node.args, strict=False)) | dict(node.kwargs)
    return next((value for name in kind.names[1:] if isinstance(value := given.get(name), fx.Node)), None)


def _free_path(node: fx.Node, weight: str, called: Iterable[str]) -> str:
    """Return the path of the module that holds the weight, else of the one in whose forward the call was.

    It is one beside that where something of that module is called itself.
    """
    holder = weight.removesuffix(".weight")
    owner, taken = holder if holder != weight else str(node.meta.get(MODULE, "")), set(called)
    holds_others = any(target == owner or target.startswith(f"{owner}.") for target in taken)
    if owner and not holds_others:
        return owner
    start = f"{owner or weight.replace('.', '_') or node.name}_layer"
    return next(path for index in range(len(taken) + 2) if (path := f"{start}{index or ''}") not in taken)


def _put(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer at a path whose parents are there."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, layer)
