"""From a trained module to a traced one and its ModelGraph."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from paretopress.errors import ModelError
from paretopress.graph import Frozen, Layer, LayerKind, ModelGraph
from paretopress.intake.bit_groups import find_bit_groups
from paretopress.intake.channel_groups import find_channel_groups
from paretopress.intake.residual import find_branches
from paretopress.intake.rewrites import rewrite
from paretopress.intake.shapes import shape_of

_NORMALISATION = nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.PReLU


@dataclass(frozen=True, slots=True)
class Intake:
    """A traced model in eval mode, and what was found in it."""

    module: fx.GraphModule
    graph: ModelGraph


def take_in(model: nn.Module, example: Tensor) -> Intake:
    """Trace a model and find its layers, channel groups, residual branches and bit groups.

    Args:
        model: a trained module; it is copied, not changed.
        example: (N, C, H, W) float32, N >= 2, of real inputs: the groups are checked on it.
    Raises: ModelError: the model does not trace, has nothing to compress, or its output is not (N, classes).
    """
    module = trace(model)
    rewrite(module, example)
    ShapeProp(module).propagate(example)
    output = _shape(next(node for node in module.graph.nodes if node.op == "output").args[0])
    if len(output) != 2 or output[0] != len(example):
        raise ModelError(f"the model must return logits (N, classes), but got shape {output} for {len(example)} inputs")
    layers = _layers(module)
    if not layers:
        others = "; ".join(f"{item.name}, {item.reason}" for item in _left_alone(module)) or "no weights"
        raise ModelError(f"the model must hold a Conv2d or Linear, but got {others}", "There is nothing to compress.")
    groups, frozen = find_channel_groups(module, layers, example)
    branches = find_branches(module, groups)
    graph = ModelGraph(
        input_shape=tuple(example.shape[1:]),
        output_shape=output[1:],
        layers=layers,
        channel_groups=groups,
        branches=branches,
        bit_groups=find_bit_groups(module, layers),
        frozen=(*frozen, *_reused(module), *_left_alone(module)),
    )
    return Intake(module, graph)


class _Tracer(fx.Tracer):
    """Traces through modules that are made in a forward, as a slice of an nn.Sequential is: their children belong to the model."""

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self.path_of_module(m)
        except NameError:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the model as an fx graph in eval mode; raises ModelError with the line where tracing stopped."""
    try:
        root = copy.deepcopy(model).eval()
        return fx.GraphModule(root, _Tracer().trace(root), type(model).__name__)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the model must be traceable by torch.fx, but got: {first}",
            "Control flow that depends on tensor values cannot be traced: move it out of forward, or wrap it with torch.fx.wrap.",
        ) from error


def _left_alone(module: fx.GraphModule) -> list[Frozen]:
    """Return the weights that no plan changes; recovery trains them with the others."""
    modules = dict(module.named_modules())
    found: dict[str, Frozen] = {}
    for node in module.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and isinstance(_attribute(module, name), nn.Parameter):
            found[name] = Frozen(name, "a parameter outside of a Conv2d or Linear")
        if node.op != "call_module":
            continue
        layer = modules[name]
        holds_weights = any(True for _ in layer.parameters())
        if holds_weights and not isinstance(layer, nn.Conv2d | nn.Linear | _NORMALISATION):
            found[name] = Frozen(name, f"{type(layer).__name__} is neither a Conv2d nor a Linear")
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
        if node.op != "call_module" or node.target in found:
            continue
        layer = modules[str(node.target)]
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found[str(node.target)] = _describe(str(node.target), layer, _shape(node)[1:])
    return tuple(found.values())


def _describe(name: str, layer: nn.Conv2d | nn.Linear, output_shape: tuple[int, ...]) -> Layer:
    params = sum(p.numel() for p in layer.parameters())
    if isinstance(layer, nn.Linear):
        positions = math.prod(output_shape[:-1])
        macs = positions * layer.weight.numel()
        return Layer(name, LayerKind.LINEAR, layer.in_features, layer.out_features, (1, 1), (1, 1), 1, macs, params, output_shape)
    kind = LayerKind.CONV
    if layer.groups > 1:
        kind = LayerKind.DEPTHWISE if layer.groups == layer.in_channels == layer.out_channels else LayerKind.GROUPED
    macs = math.prod(output_shape[1:]) * layer.weight.numel()
    kernel, stride = (layer.kernel_size[0], layer.kernel_size[1]), (layer.stride[0], layer.stride[1])
    return Layer(name, kind, layer.in_channels, layer.out_channels, kernel, stride, layer.groups, macs, params, output_shape)


def _reused(module: fx.GraphModule) -> list[Frozen]:
    calls: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    modules = dict(module.named_modules())
    return [
        Frozen(name, f"called {count} times with the same weights")
        for name, count in calls.items()
        if count > 1 and isinstance(modules[name], nn.Conv2d | nn.Linear)
    ]
