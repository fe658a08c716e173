"""Record the calls of torch functions and layers that a model makes for real inputs."""

from __future__ import annotations

import operator
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from paretopress.intake.recording.calls import CONTAINERS, IN_PLACE, VALUE_READS, Call, canonical, computes_nothing, without_side_effect
from paretopress.intake.recording.sizes import Size

# keys of a node's `meta`: the path of the module in whose forward it was recorded, and the shape of its tensor
MODULE, SHAPE = "module", "recorded_shape"
_SIZES = frozenset({"size", "numel", "nelement", "__len__"})
_COPIES = frozenset({"clone", "contiguous", "to", "float", "double"})
# this package's and torch's own frames, in which no user's code runs
_OWN_FOLDERS = ("/torch/", "/paretopress/")


class Recorder(TorchFunctionMode):
    """A mode that records, as nodes of a graph, the calls that depend on the inputs.

    Python runs as it always does, on real tensors. What no input has a part in is computed, and becomes a parameter or buffer of `root`
    where the graph reads it. Calls that compute nothing are left out, and a change in place is recorded as the function that computes it,
    where no other tensor of the graph shares the memory.

    Attributes:
        graph: what was recorded so far.
        value_reads: "file:line" of the user's code where a value that depends on the inputs left the graph, as in `if x.sum() > 0`.
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root, self.graph = root, fx.Graph()
        self.value_reads: list[str] = []
        self._thread = threading.get_ident()
        self._paths = {id(part): path for path, part in root.named_modules()}
        self._owned = {id(part): name for name, part in (*root.named_parameters(), *root.named_buffers())}
        self._held: dict[int, Tensor] = {}  # so that no id is given out again
        self._nodes: dict[int, fx.Node] = {}
        self._parts: dict[int, tuple[fx.Node, tuple[Any, ...]]] = {}  # tensors of one result of several, until they are used
        self._made: dict[tuple[fx.Node, Any], fx.Node] = {}  # the nodes of such parts, and of sizes
        self._of_sizes: set[fx.Node] = set()  # what is computed from sizes alone
        self._sharing: dict[int, int] = {}  # memory -> tensors of the graph that lie in it
        self._copies: set[int] = set()  # copies that share the node of what they are copies of
        self._constants = 0
        self._sources: dict[int, str] = {}  # constant -> the parameter that it was computed from
        self._stack = [""]
        self._leaf: nn.Module | None = None
        self._in_place: dict[nn.Module, bool] = {}  # layers that work in place -> whether each call could do without

    def add_input(self, name: str, value: Tensor) -> None:
        """Take a tensor as the next input of the graph."""
        self._track(value, self.graph.placeholder(name))

    def add_outputs(self, values: Sequence[Tensor]) -> fx.Node:
        """End the graph with one tensor, or a tuple of them."""
        nodes = tuple(map(self._node_of, values))
        for layer, needless in self._in_place.items():
            setattr(layer, IN_PLACE, not needless)
        end: fx.Node = self.graph.output(nodes[0] if len(nodes) == 1 else nodes)
        return end

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Carry out a call of a torch function, and record it."""
        named = dict(kwargs or {})
        if self._leaf is not None or threading.get_ident() != self._thread:
            return func(*args, **named)
        if not self._depends((args, named)):
            return self._without_inputs(func(*args, **named), (args, named))
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._attribute(func, args)
        if name in _SIZES:
            return self._size(name, args, named)
        if name == "__iter__":
            return iter(self.__torch_function__(torch.unbind, types, (args[0], 0)))
        if name in VALUE_READS and not self._is_of_sizes(args[0]):
            self.value_reads.append(_users_line())
        return self._function(func, name, tuple(args), named)

    def _function(self, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        plain = without_side_effect(name, kwargs)
        shape, dtype = (None, None) if first is None else (tuple(first.shape), first.dtype)
        shared = first is not None and self._shares_memory(first)
        if plain is not None and first is not None and (id(first) in self._copies or not self._depends(first)):
            self._track(first, self._create(canonical(Tensor.clone, "clone", (self._node_of(first),), {})))
        result = function(*args, **kwargs)
        if plain is None and computes_nothing(name, args, result, shape, dtype):
            if first is not None and result is not first:
                self._alias(result, first, is_copy=name in _COPIES)
            return result
        if name != "__setitem__" and next(_tensors_in(result), None) is None:
            return result
        given, named = self._argument(args), self._argument(kwargs)
        if plain and not shared:
            named.pop(IN_PLACE, None)
            function, name = getattr(Tensor, plain, function) if plain != name else function, plain
        node = self._create(canonical(function, name, given, named))
        if name != "__setitem__":
            self._track(result, node)
        return result

    def _attribute(self, getter: Any, args: Sequence[Any]) -> Any:
        name, value = getattr(getter.__self__, "__name__", ""), args[0]
        if name == "shape":
            return self._size("size", args, {})
        result = getter(*args)
        if not isinstance(result, Tensor) or name in ("grad", "_base"):
            return result
        if name == "data":
            self._alias(result, value)
        else:
            self._track(result, self._create(Call("call_function", getattr, (self._node_of(value), name), {})))
        return result

    def _size(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value = args[0]
        sizes = [Size.of_axis(value, axis, self) for axis in range(value.dim())]
        if name == "__len__":
            return int(sizes[0])
        if name != "size":
            product: Any = 1
            for size in sizes:
                product = product * size
            return product
        axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return torch.Size(sizes) if axis is None else sizes[int(axis)]

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Record the calls of torch's own layers within the block as such, not what they call in turn."""
        before, after = register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave, with_kwargs=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        if self._leaf is not None or threading.get_ident() != self._thread:
            return
        path = self._paths.get(id(module))
        self._stack.append(self._stack[-1] if path is None else path)
        if path is not None and is_leaf(module):
            self._leaf = module

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if threading.get_ident() != self._thread or (self._leaf is not None and self._leaf is not module):
            return
        path, is_layer, self._leaf = self._stack.pop(), self._leaf is not None, None
        if is_layer:
            with torch._C.DisableTorchFunction():
                self._layer(module, path, args, kwargs, output)

    def _layer(self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self._depends((args, kwargs)):
            self._without_inputs(output, (args, kwargs), path)
            return
        if args and output is args[0]:
            if not getattr(module, IN_PLACE, False):  # nn.Identity, or a dropout in eval mode
                return
            self._in_place[module] = self._in_place.get(module, True) and not self._shares_memory(output)
        self._track(output, self._create(Call("call_module", path, self._argument(args), self._argument(kwargs))))

    def _create(self, call: Call) -> fx.Node:
        node = self.graph.create_node(call.op, call.target, call.args, call.kwargs)
        node.meta[MODULE] = self._stack[-1]
        self._note_sizes(node)
        return node

    def _note_sizes(self, node: fx.Node) -> None:
        """Note a node that is computed from sizes alone, as the shape of a reshape is."""
        sources = node.all_input_nodes
        if node.target == "size" or (
            self._of_sizes.intersection(sources) and all(s in self._of_sizes or s.op == "get_attr" for s in sources)
        ):
            self._of_sizes.add(node)

    def _is_of_sizes(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._depends(value) and self._node_of(value) in self._of_sizes

    def _depends(self, value: Any) -> bool:
        """Return whether a value holds a tensor of the graph, or a size of one."""
        if isinstance(value, Tensor):
            return id(value) in self._nodes or id(value) in self._parts
        if isinstance(value, Size):
            return value.recording is self
        if isinstance(value, slice):
            return self._depends((value.start, value.stop, value.step))
        if isinstance(value, Mapping):
            return any(map(self._depends, value.values()))
        return isinstance(value, tuple | list) and any(map(self._depends, value))

    def _track(self, value: Any, node: fx.Node, place: tuple[Any, ...] = ()) -> None:
        """Have a node, or a part of what it returns, stand for the tensors in a value."""
        if isinstance(value, Mapping):
            for key, part in value.items():
                self._track(part, node, (*place, key))
        elif isinstance(value, tuple | list):
            for index, part in enumerate(value):
                self._track(part, node, (*place, index))
        elif isinstance(value, Tensor):
            self._hold(value)
            self._nodes.pop(id(value), None)
            self._parts.pop(id(value), None)
            self._copies.discard(id(value))
            if place:
                self._parts[id(value)] = node, place
            else:
                self._nodes[id(value)] = node
                node.meta[SHAPE] = tuple(value.shape)

    def _alias(self, value: Tensor, of: Tensor, *, is_copy: bool = False) -> None:
        node = self._node_of(of)
        self._track(value, node)
        if is_copy:
            self._copies.add(id(value))

    def _hold(self, value: Tensor) -> None:
        if id(value) not in self._held:
            self._held[id(value)] = value
            memory = _memory(value)
            self._sharing[memory] = self._sharing.get(memory, 0) + 1

    def _shares_memory(self, value: Tensor) -> bool:
        """Return whether other tensors of the graph lie in the memory of this one, so that a change in place would change them, too."""
        return self._sharing.get(_memory(value), 0) > (id(value) in self._held)

    def _node_of(self, value: Tensor) -> fx.Node:
        if id(value) in self._parts:
            node, place = self._parts.pop(id(value))
            for key in place:
                node = self._made_once(node, key, lambda node=node, key=key: self.graph.call_function(operator.getitem, (node, key)))
            node.meta[SHAPE] = tuple(value.shape)
            self._nodes[id(value)] = node
        return self._nodes[id(value)] if id(value) in self._nodes else self._constant(value)

    def _made_once(self, node: fx.Node, key: Any, make: Any) -> fx.Node:
        """Return the node that `make` puts behind another, the same for the same key."""
        if (node, key) not in self._made:
            with self.graph.inserting_after(node):
                made = make()
            made.meta[MODULE] = node.meta.get(MODULE, "")
            self._note_sizes(made)
            self._made[node, key] = made
        return self._made[node, key]

    def _argument(self, value: Any) -> Any:
        """Return a value as the graph has it: nodes in place of tensors and sizes."""
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, Size):
            return self._size_node(value) if value.recording is self else int(value)
        if isinstance(value, slice):
            return slice(*map(self._argument, (value.start, value.stop, value.step)))
        if isinstance(value, Mapping):
            return {key: self._argument(part) for key, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._argument, value))
        if isinstance(value, tuple | range):
            return tuple(map(self._argument, value))
        if isinstance(value, list):
            return [self._argument(part) for part in value]
        if isinstance(value, np.ndarray):
            return self._argument(torch.from_numpy(value))
        return value.item() if isinstance(value, np.generic) else value

    def _size_node(self, size: Size) -> fx.Node:
        if size.node is None:
            function, first, second = size.origin
            if function is Tensor.size:
                node = self._node_of(first)
                size.node = self._made_once(node, ("size", second), lambda: self.graph.call_method("size", (node, second)))
            else:
                size.node = self._create(Call("call_function", function, (self._argument(first), self._argument(second)), {}))
        return size.node

    def _constant(self, value: Tensor) -> fx.Node:
        """Return a node that reads a tensor that no input has a part in: a parameter or buffer, made of what was computed if it is new."""
        name = self._owned.get(id(value))
        if name is None:
            source = self._sources.get(id(value), "")
            name = "_".join(filter(None, ("constant", str(self._constants), source.replace(".", "_"))))
            self._constants += 1
            made = value.detach().clone()
            if source and value.is_floating_point():
                self.root.register_parameter(name, nn.Parameter(made))
            else:
                self.root.register_buffer(name, made)
            self._owned[id(value)] = name
            self._held.setdefault(id(value), value)
        node = self.graph.get_attr(name)
        node.meta[MODULE], node.meta[SHAPE] = self._stack[-1], tuple(value.shape)
        return node

    def _without_inputs(self, result: Any, given: Any, path: str = "") -> Any:
        """Return what was computed without the inputs; the first parameter that has a part in it, or the layer, is noted."""
        source = path or next(filter(None, map(self._source, _tensors_in(given))), "")
        for part in _tensors_in(result) if source else ():
            if id(part) not in self._owned:
                self._sources[id(part)] = source
                self._held.setdefault(id(part), part)
        return result

    def _source(self, value: Tensor) -> str:
        return self._owned.get(id(value), "") if isinstance(value, nn.Parameter) else self._sources.get(id(value), "")


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one of torch's layers as torch made it: without hooks and parametrisations."""
    home = type(module).__module__
    is_layer = home.startswith(("torch.nn.", "torch.ao.nn.")) and not home.startswith("torch.nn.utils.")
    return is_layer and not module._forward_pre_hooks and not module._forward_hooks and not isinstance(module, CONTAINERS)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors_in(part)


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _users_line() -> str:
    """Return "file:line" of the innermost frame of the user's code, "" where there is none."""
    for frame in reversed(traceback.extract_stack()):
        if not any(folder in frame.filename for folder in _OWN_FOLDERS):
            return f"{frame.filename}:{frame.lineno}"
    return ""
