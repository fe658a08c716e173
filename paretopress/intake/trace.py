"""Trace a trained module and build its ModelGraph."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from paretopress.compress.prune.recurrent_units import Recurrent
from paretopress.core.layer_types import Weighted, kernel_of
from paretopress.core.model_graph import INPUT, OUTPUT, BitGroup, Frozen, Layer, LayerKind, ModelGraph, TensorSpec, kind_of_conv
from paretopress.core.model_inputs import Inputs, outputs_of, size_of, taken, tensors, values_of_an_item
from paretopress.errors import ModelError
from paretopress.intake.faithful import faithful
from paretopress.intake.flow.shapes import note_shapes, shape_of
from paretopress.intake.groups.bit_groups import bits_of, find_bit_groups
from paretopress.intake.groups.channel_groups import find_channel_groups
from paretopress.intake.groups.residual_branches import find_branches
from paretopress.intake.onnx_module import OnnxGraph
from paretopress.intake.other_sizes import fixed_size
from paretopress.intake.rewrites import drop_dead_code
from paretopress.intake.tracing import output_names, output_nodes

# what is computed a dozen times is computed for items of so many values together, for two at least
_FEW_VALUES, _FEWEST_ITEMS = 400_000, 2
_NORMALISATION = nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.PReLU


@dataclass(frozen=True, slots=True)
class Intake:
    """A traced model in eval mode, and what was found in it; `notes` say in a sentence each what was changed before that."""

    module: fx.GraphModule
    graph: ModelGraph
    notes: tuple[str, ...] = ()


def take_in(
    model: nn.Module,
    example: Inputs,
    names: Sequence[str] | None = None,
    *,
    items: Inputs | None = None,
    resolutions: Sequence[float] = (),
) -> Intake:
    """Trace a model and find its layers, channel groups, residual branches and bit groups.

    The traced model is compared with the original, in eval mode, on real items; see `faithful`.

    Args:
        model: a trained module; it is copied, and left as it is, its training flags too.
        example: (N, ...), N >= 2, of real inputs; the groups are checked on the first of them, two where items are large.
        names: of the arguments of the model's forward that the inputs are; None takes the first ones. The others keep their defaults.
        items: (N, ...) that the comparison runs, where the example is too little to tell, as one without any padding is.
        resolutions: shares of the images' height and width at which the model shall be tried too, see `ModelGraph.fixed_size`.
    Raises: ModelError: the model does not trace, computes something else once it is traced, has nothing to compress, or its outputs are
        not tensors with a row an item.
    """
    if isinstance(model, OnnxGraph):
        return _take_in_file(model, example, names)
    few = taken(example, max(_FEW_VALUES // values_of_an_item(example), _FEWEST_ITEMS))
    found = faithful(model, names, few, example if items is None else items)
    module, left_out = found.module, found.left_out
    note_shapes(module, few)
    outputs = _outputs(module, size_of(few))
    layers = _layers(module)
    groups, frozen = find_channel_groups(module, layers, few) if layers else ((), ())
    if not groups and all(layer.kind is LayerKind.RECURRENT for layer in layers):
        others = [f"{layer.name}, a {type(module.get_submodule(layer.name)).__name__} whose units nothing reads" for layer in layers]
        others += [f"{item.name}, {item.reason}" for item in _left_alone(module, left_out)]
        held = "; ".join(others) or "no weights"
        raise ModelError(f"the model must hold a convolution or a Linear, but got {held}", "There is nothing to compress.")
    drop_dead_code(module)  # such as sizes that reshapes no longer read: a branch whose parts they read would not be one
    branches = find_branches(module, groups)
    graph = ModelGraph(
        inputs=_specs(module, few),
        outputs=outputs,
        layers=layers,
        channel_groups=groups,
        branches=branches,
        bit_groups=find_bit_groups(module, layers),
        frozen=(*frozen, *_reused(module), *_left_alone(module, left_out)),
        fixed_size=fixed_size(model, names, module, example, resolutions),
    )
    return Intake(module, graph)


def _take_in_file(model: OnnxGraph, example: Inputs, names: Sequence[str] | None) -> Intake:
    """Find the layers of a file that is run as it is; all that a plan can change of them is their bits."""
    taken, given = model.names()
    order, parts = taken if names is None else list(names), tensors(example)
    module = copy.deepcopy(model).traced(order)
    with torch.inference_mode():
        outputs = outputs_of(module(*parts))
    by_name = dict(zip(order, parts, strict=True))
    layers = model.layers(tuple(by_name[name] for name in taken))
    if not layers:
        raise ModelError("the file must hold a convolution or a matrix product with weights, but has none", "There is nothing to compress.")
    graph = ModelGraph(
        inputs=tuple(_spec(name, part) for name, part in by_name.items()),
        outputs=tuple(_spec(name, part) for name, part in zip(given, outputs, strict=True)),
        layers=layers,
        channel_groups=(),
        branches=(),
        bit_groups=tuple(BitGroup(layer.name, (layer.name,), bits_of((layer,))) for layer in layers),
        frozen=(Frozen("the file", f"bits alone are searched: it does not convert to PyTorch, {model.reason}"),),
        only_bits=True,
    )
    return Intake(module, graph)


def _spec(name: str, value: Any) -> TensorSpec:
    """Return the description of a batch, which is a tensor, or what ShapeProp noted of one."""
    return TensorSpec(name, tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))


def _specs(module: fx.GraphModule, example: Inputs) -> tuple[TensorSpec, ...]:
    """Return the inputs under the names of the model's arguments, or "input" where there is one."""
    parts = tensors(example)
    names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"] if len(parts) > 1 else [INPUT]
    return tuple(_spec(name, part) for name, part in zip(names, parts, strict=True))


def _outputs(module: fx.GraphModule, count: int) -> tuple[TensorSpec, ...]:
    """Return the outputs, which have a row an item."""
    parts = output_nodes(module)
    names = output_names(module) or ([OUTPUT] if len(parts) == 1 else [f"{OUTPUT}_{index}" for index in range(len(parts))])
    specs = []
    for name, part in zip(names, parts, strict=True):
        shape = shape_of(part) or ()
        if shape[:1] != (count,):
            raise ModelError(f"the model must return tensors with one row an item, but got {shape or 'no tensor'} at its output {name}")
        specs.append(_spec(name, part.meta["tensor_meta"]))
    return tuple(specs)


def _left_alone(module: fx.GraphModule, left_out: Mapping[str, str]) -> list[Frozen]:
    """Return the weights that no plan changes, which recovery trains with the others, and the parts whose rewriting was left out."""
    modules = dict(module.named_modules())
    found = {name: Frozen(name, reason) for name, reason in left_out.items()}
    for node in module.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and isinstance(_attribute(module, name), nn.Parameter):
            found[name] = Frozen(name, "a parameter outside of a convolution or Linear")
        if node.op != "call_module":
            continue
        layer = modules[name]
        holds_weights = any(True for _ in layer.parameters())
        if name not in left_out and holds_weights and not isinstance(layer, Weighted | Recurrent | _NORMALISATION):
            found[name] = Frozen(name, f"{type(layer).__name__} is neither a convolution nor a Linear")
    return list(found.values())


def _attribute(module: nn.Module, path: str) -> object:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _shape(node: object) -> tuple[int, ...]:
    shape = shape_of(node)
    if shape is None:
        raise ModelError("the model must return one tensor, but got several outputs", "Return the logits alone in eval mode.")
    return shape


def _layers(module: fx.GraphModule) -> tuple[Layer, ...]:
    modules = dict(module.named_modules())
    found: dict[str, Layer] = {}
    for node in module.graph.nodes:
        if node.op != "call_module":
            continue
        name, layer = str(node.target), modules[str(node.target)]
        if isinstance(layer, Weighted):
            called = _describe(name, layer, _shape(node)[1:])
        elif isinstance(layer, Recurrent):
            called = _describe_recurrent(name, layer, node)
        else:
            continue
        before = found.get(name)
        found[name] = called if before is None else replace(before, macs=before.macs + called.macs)
    return tuple(found.values())


def _describe(name: str, layer: Weighted, output_shape: tuple[int, ...]) -> Layer:
    params = sum(p.numel() for p in layer.parameters())
    if isinstance(layer, nn.Linear):
        positions = math.prod(output_shape[:-1])
        macs = positions * layer.weight.numel()
        return Layer(name, LayerKind.LINEAR, layer.in_features, layer.out_features, (1, 1), (1, 1), 1, macs, params, output_shape)
    kind = kind_of_conv(layer.groups, layer.in_channels, layer.out_channels)
    macs = math.prod(output_shape[1:]) * layer.weight.numel()
    stride = tuple(int(step) for step in layer.stride)
    return Layer(name, kind, layer.in_channels, layer.out_channels, kernel_of(layer), stride, layer.groups, macs, params, output_shape)


def _describe_recurrent(name: str, layer: Recurrent, node: fx.Node) -> Layer:
    sequence = node.meta["tensor_meta"][0]  # outputs of all positions, then the states
    shape = tuple(sequence.shape)
    positions = shape[1] if layer.batch_first else shape[0]
    weights = sum(p.numel() for name, p in layer.named_parameters() if name.startswith("weight"))
    params = sum(p.numel() for p in layer.parameters())
    output_shape = (positions, shape[-1])
    return Layer(name, LayerKind.RECURRENT, layer.input_size, shape[-1], (1, 1), (1, 1), 1, positions * weights, params, output_shape)


def _reused(module: fx.GraphModule) -> list[Frozen]:
    calls: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    modules = dict(module.named_modules())
    return [
        Frozen(name, f"called {count} times with the same weights")
        for name, count in calls.items()
        if count > 1 and isinstance(modules[name], Weighted)
    ]
