"""Calls of torch functions in one spelling: `x + y`, `torch.add(x, y)`, `x.add_(y)` and their like are one node of the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

IN_PLACE = "inplace"
_METHOD, _FUNCTION = "call_method", "call_function"
# names of functions and methods of two arguments -> the operator
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "subtract": operator.sub, "mul": operator.mul, "multiply": operator.mul,
    "div": operator.truediv, "divide": operator.truediv, "true_divide": operator.truediv, "floor_divide": operator.floordiv,
    "matmul": torch.matmul, "mm": torch.matmul, "bmm": torch.matmul, "pow": operator.pow, "__getitem__": operator.getitem,
    "__iadd__": operator.add, "__isub__": operator.sub, "__imul__": operator.mul, "__itruediv__": operator.truediv,
    "__idiv__": operator.truediv, "__matmul__": torch.matmul,
}  # fmt: skip
# the same with the arguments the other way round
_REFLECTED: dict[str, Callable[..., Any]] = {
    "__radd__": operator.add, "__rsub__": operator.sub, "rsub": operator.sub, "__rmul__": operator.mul, "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv, "__rfloordiv__": operator.floordiv, "__rpow__": operator.pow, "__rmatmul__": torch.matmul,
}  # fmt: skip
# names of functions and methods that are one function of torch
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "neg": torch.neg, "flatten": torch.flatten,
    "permute": torch.permute, "transpose": torch.transpose, "swapaxes": torch.transpose, "swapdims": torch.transpose,
}  # fmt: skip
_RESHAPES = frozenset({
    "view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze", "expand", "expand_as", "broadcast_to", "contiguous",
    "detach", "alias", "clone", "type_as", "to", "float", "double", "half", "bfloat16", "_assert_tensor_metadata", "requires_grad_",
})  # fmt: skip
_NEUTRAL = {"add": 0, "__radd__": 0, "sub": 0, "mul": 1, "__rmul__": 1, "div": 1, "true_divide": 1, "add_": 0, "mul_": 1, "div_": 1}
# what takes a value out of the graph, so that Python can decide by it
VALUE_READS = frozenset({
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "numpy", "__array__", "equal", "allclose",
    "is_nonzero", "__contains__",
})  # fmt: skip
_NOT_IN_PLACE = frozenset({"requires_grad_", "retain_grad", "share_memory_", "pin_memory"})
# composite layers of torch, whose own layers are recorded
CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A node to be made: its operation, target and arguments, as torch.fx has them."""

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def canonical(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Return the call of a function, named `name`, in the spelling that the graph has it in."""
    if len(args) == 2 and not kwargs:
        if name in _OPERATORS:
            return Call(_FUNCTION, _OPERATORS[name], args, kwargs)
        if name in _REFLECTED:
            return Call(_FUNCTION, _REFLECTED[name], (args[1], args[0]), kwargs)
    if name == "__setitem__":
        return Call(_FUNCTION, operator.setitem, args, kwargs)
    if name == "view" and not isinstance(args[-1], torch.dtype):  # copies that were left out may be what made a view possible
        return Call(_METHOD, "reshape", args, kwargs)
    if name in _FUNCTIONS:
        plain = {key: value for key, value in kwargs.items() if key != IN_PLACE}
        return Call(_FUNCTION, _FUNCTIONS[name], _axes_together(args) if name == "permute" else args[:1] if name == "relu" else args, plain)
    if getattr(Tensor, name, None) is function or type(function).__name__ in ("method_descriptor", "wrapper_descriptor"):
        return Call(_METHOD, name, args, kwargs)
    if getattr(function, "__module__", None) == "torch._tensor":
        return Call(_METHOD, name, args, kwargs)
    return Call(_FUNCTION, function, args, kwargs)


def _axes_together(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of `permute` with its axes as one: x.permute(0, 2, 1) is torch.permute(x, (0, 2, 1))."""
    return args if len(args) < 2 or isinstance(args[1], tuple | list) else (args[0], args[1:])


def without_side_effect(name: str, kwargs: Mapping[str, Any]) -> str | None:
    """Return the name of the method that computes what a call computes in place, "" if there is none, None of one that is not in place."""
    if kwargs.get(IN_PLACE):
        return name
    if name in ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"):
        return "" if name == "__setitem__" else name
    if not name.endswith("_") or name.endswith("__") or name in _NOT_IN_PLACE:
        return "" if kwargs.get("out") is not None else None
    plain = name.removesuffix("_")
    return plain if hasattr(Tensor, plain) and plain not in ("copy", "zero", "fill", "set", "resize") else ""


def is_in_place(node: fx.Node) -> bool:
    """Return whether a node changes a tensor that it is given."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return without_side_effect("__setitem__" if name == "setitem" else name, node.kwargs) is not None


def computes_nothing(name: str, args: Sequence[Any], result: Any, shape: tuple[int, ...] | None, dtype: torch.dtype | None) -> bool:
    """Return whether a call that is not in place returned its first argument, of that shape and type, as it was."""
    if not isinstance(result, Tensor) or not isinstance(args[0], Tensor):
        return False
    if result is args[0]:
        return True
    if tuple(result.shape) != shape or result.dtype != dtype:
        return False
    if name in _RESHAPES:
        return True
    if name == "__getitem__":
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        return all(part is Ellipsis or (isinstance(part, slice) and part.step in (None, 1)) for part in parts)
    if name == "pad":
        return not any(args[1]) if len(args) > 1 else False
    return len(args) == 2 and name in _NEUTRAL and isinstance(args[1], int | float) and args[1] == _NEUTRAL[name]
