"""Follow the channels of layers through a traced model.

The model runs once on one item. Beside each tensor goes another of its shape that holds, for each element, the label of the channel that it
belongs to. Reshapes, permutations, concatenations and slices move labels as they move values. Sums and products let the labels that meet be
of one class: such channels are removed together. A layer gives its outputs labels of its own, and notes the labels of its inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paretopress.compress.prune.channel_shuffle import ChannelShuffle
from paretopress.compress.prune.recurrent_units import Recurrent
from paretopress.core.model_inputs import Inputs, taken, tensors
from paretopress.intake.flow.labels import NONE, Labels, along, compact, shrunk

OUT, IN, VALUE = "out", "in", "value"
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed
BatchNorm = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm
_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, ChannelShuffle, nn.Identity)
_MOVES = frozenset({
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "stack",
    "cat", "concat", "concatenate", "unbind", "getitem", "narrow", "select", "contiguous", "clone", "roll", "flip", "pixel_shuffle",
    "pixel_unshuffle", "index_select", "movedim", "moveaxis", "tile", "repeat_interleave", "broadcast_to", "swapaxes", "hstack", "vstack",
    "view_as", "reshape_as", "channel_shuffle", "detach", "t", "getattr", "chunk", "split", "tensor_split", "split_with_sizes",
})  # fmt: skip
_SPLITS = frozenset({"chunk", "split", "tensor_split", "split_with_sizes"})
_REDUCTIONS = frozenset({"mean", "sum", "amax", "amin", "max", "min", "norm", "var", "std", "logsumexp", "prod", "any", "all", "median"})
_PRODUCTS = frozenset({"matmul"})
_CUT = "its channels are cut at fixed places"
_MIXED = "its channels are mixed with each other"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that has an entry for each of some channels: rows (OUT) or columns (IN) of a module's weights, or an axis of a parameter.

    Attributes:
        path: of the module or parameter. role: OUT, IN or VALUE. axis: of the parameter, 0 for modules.
        labels: (entries,) one label for each entry.
    """

    path: str
    role: str
    axis: int
    labels: Tensor


class ChannelFlow(fx.Interpreter):
    """Runs a traced module, and follows its channels.

    Attributes:
        labels: the classes of channels. slots: (path, role) -> the slot. values: node -> the labels of its tensor, or a tuple of them.
    """

    def __init__(self, module: fx.GraphModule, example: Inputs) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.labels = Labels()
        self.slots: dict[tuple[str, str], Slot] = {}
        self.values: dict[fx.Node, Any] = {}
        self._cuts: list[tuple[Tensor, int]] = []  # labels that are cut at fixed places, and the axis
        with torch.no_grad():
            self.run(*(part.clone() for part in tensors(taken(example, 1))))
        for labels, axis in self._cuts:
            if not _same_along(self.labels.roots(labels), axis):  # whole heads go: what is cut inside of them stays as wide as it is
                self.labels.pin(labels, _CUT)
        for value in _flat(self.values[next(node for node in self.graph.nodes if node.op == "output")]):
            self.labels.pin(value, "its output channels are the model's outputs")

    def shape_of_parameter(self, path: str) -> tuple[int, ...]:
        """Return the shape of a parameter or buffer."""
        return tuple(self.fetch_attr(path).shape)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note the labels of what it returns."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        self.values[n] = _fitting(self._labels_of(n, args, kwargs, value), value)
        return value

    def _labels_of(self, node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any) -> Any:
        given: Any = fx.map_arg(node.args, self._given)
        named: Any = fx.map_arg(dict(node.kwargs), self._given)
        if node.op == "output":
            return given[0]
        if node.op == "get_attr":
            return self._parameter(str(node.target), value)
        if node.op == "placeholder" or not any(isinstance(part, Tensor) for part in _flat(value)):
            return None
        mine = [part for part in _flat((given, tuple(named.values()))) if isinstance(part, Tensor)]
        if node.op == "call_module":
            return self._layer(str(node.target), self.module.get_submodule(str(node.target)), mine, value)
        name = _name_of(node)
        if not mine:
            return None
        if name in _MOVES and given:
            return self._moved(node, given[0], args[1:], kwargs, value)
        if node.target is operator.setitem:
            return mine[0]
        if name in _PRODUCTS and len(mine) == 2:
            return self._product(mine[0], mine[1], value)
        if node.target is F.scaled_dot_product_attention:
            return self._attention(mine, value)
        if name in _REDUCTIONS and (reduced := self._reduced(mine[0], args, kwargs, value)) is not None:
            return reduced
        return self._elementwise_or_spatial(mine, value)

    def _given(self, node: fx.Node) -> Any:
        """Return the labels of a node's tensors; of one that holds none its value, as it is."""
        found = self.values.get(node)
        return self.env[node] if found is None else found

    # -- functions

    def _moved(self, node: fx.Node, first: Any, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any) -> Any:
        """Labels of a function that moves values about: of its first argument it moves the labels, the others are as they are."""
        name = _name_of(node)

        def move(labels: Any) -> Any:
            return getattr(labels, name)(*args, **kwargs) if node.op == "call_method" else node.target(labels, *args, **kwargs)  # type: ignore[operator]

        try:
            moved = _moved_by(move, first)
        except (RuntimeError, TypeError, ValueError):  # a function that moves more than values
            return self._elementwise_or_spatial(_flat(first), value)
        if name in _SPLITS:
            self._tie_parts(first, moved)
        elif name == "getitem" and isinstance(first, Tensor) and isinstance(moved, Tensor):
            self._cut_by_slice(first, moved)
        return moved

    def _tie_parts(self, whole: Tensor, parts: Sequence[Tensor]) -> None:
        """Channels that are split into parts of one size go together, so that these stay so; other parts are cut at fixed places."""
        if all(_label_set(part) == _label_set(parts[0]) for part in parts):
            return  # positions are split, not channels
        if len({part.shape for part in parts}) == 1:
            for other in parts[1:]:
                self.labels.join(parts[0], other)
        else:
            self._note_cut(whole, parts[0])

    def _note_cut(self, whole: Tensor, part: Tensor) -> None:
        self._cuts += [(whole, axis) for axis in range(whole.dim()) if part.shape[axis] != whole.shape[axis]]

    def _cut_by_slice(self, whole: Tensor, part: Tensor) -> None:
        """Note the channels of a tensor of which a slice takes some, for it names where it begins and ends."""
        left = _label_set(part)
        if left and left != _label_set(whole) and part.dim() == whole.dim():
            self._note_cut(whole, part)

    def _product(self, first: Tensor, second: Tensor, value: Tensor) -> Tensor:
        """Labels of `first @ second`: an element belongs to the channels of its row and of its column, which are then of one class."""
        row, column = self._over(first, -1), self._over(second, -2 if second.dim() > 1 else -1)
        rows = row.unsqueeze(-1) if second.dim() > 1 else row
        columns = column.unsqueeze(-2) if first.dim() > 1 and second.dim() > 1 else column
        return self._combined([rows.expand(value.shape), columns.expand(value.shape)], strict=False)

    def _over(self, labels: Tensor, axis: int) -> Tensor:
        """Return labels without an axis that is summed over; labels that differ along it are made one class."""
        head = labels.select(axis, 0)
        if not bool((labels == head.unsqueeze(axis)).all()):
            for index in range(1, labels.shape[axis]):
                self.labels.join(*_where_both(head, labels.select(axis, index)))
            head = torch.amax(labels, axis)
        return self.labels.roots(head)

    def _attention(self, given: Sequence[Tensor], value: Tensor) -> Tensor:
        """Labels of softmax(q k' + mask) v, (..., heads, positions, width)."""
        query, key, values = given[:3]
        scores = self._product(query, key.transpose(-2, -1), torch.empty(*query.shape[:-1], key.shape[-2], device="meta"))
        if len(given) > 3:
            scores = self._combined([scores, given[3]], shape=scores.shape)
        return self._product(scores, values, value)

    def _reduced(self, labels: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], value: Any) -> Any:
        """Return the labels of a mean, a sum or their like over some axes, None where it is not known over which."""
        axes = kwargs.get("dim", args[1] if len(args) > 1 else None)
        axes = tuple(range(labels.dim())) if axes is None else tuple(axes) if isinstance(axes, list | tuple) else (axes,)
        if not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in axes):
            return None
        low, high = torch.amin(labels, axes, keepdim=True), torch.amax(labels, axes, keepdim=True)
        one = torch.where(low == high, low, NONE)
        for part in _flat(value):
            shape = part.shape
            return tuple(one.reshape(shape) for _ in value) if isinstance(value, tuple) else one.reshape(shape)
        return None

    def _elementwise_or_spatial(self, given: Sequence[Tensor], value: Any) -> Any:
        (first, *_) = given
        if not isinstance(value, Tensor):
            for part in given:
                self.labels.pin(part, _MIXED)
            return None
        if _broadcasts(given, value.shape):
            return self._combined(list(given), shape=value.shape)
        if first.dim() == value.dim() > 2 and first.shape[:2] == value.shape[:2]:
            channels = along(first, 1)
            if channels is not None:
                return _spread(channels, 1, value.shape)
        for part in given:
            self.labels.pin(part, _MIXED)
        return None

    def _combined(self, parts: list[Tensor], shape: Sequence[int] | None = None, *, strict: bool = True) -> Tensor:
        """Return the labels of an element-by-element combination; labels that meet are made one class.

        What is repeated along an axis on which the other's labels differ, as a gate of one channel is, meets none of them. With `strict`
        a label that meets an element of no channel is pinned.
        """
        shape = tuple(parts[0].shape if shape is None else shape)
        whole = parts[0].expand(shape) if parts[0].dim() <= len(shape) else parts[0]
        for part in parts[1:]:
            other = part.expand(shape)
            if _is_gate(part, whole, shape):
                continue
            if _is_gate_of(whole, parts[0], other):
                whole = other
                continue
            mine, theirs = compact(whole, other)
            self.labels.join(*((mine, theirs) if strict and part.numel() > 1 else _where_both(mine, theirs)))
            whole = torch.where(mine == NONE, theirs, mine).expand(shape)
        return shrunk(whole)

    # -- layers and parameters

    def _layer(self, path: str, layer: nn.Module, given: list[Tensor], value: Any) -> Any:
        if isinstance(layer, ChannelShuffle):
            self.labels.pin(given[0], "its channels are shuffled with others")
        if isinstance(layer, _MOVING_MODULES):
            return _moved_by(layer, given[0])
        if isinstance(layer, nn.Linear):
            return self._weighted(path, given[0], -1, layer.out_features, value)
        if isinstance(layer, Convolution):
            return self._convolution(path, layer, given[0], value)
        if isinstance(layer, nn.Embedding):
            return _spread(self._rows(path, layer.embedding_dim), -1, value.shape)
        if isinstance(layer, BatchNorm):
            return self._channelwise(path, given[0], 1)
        if isinstance(layer, nn.GroupNorm):
            return self._group_norm(path, layer, given[0])
        if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) == 1:
            return self._channelwise(path, given[0], -1)
        if isinstance(layer, nn.PReLU):
            return self._channelwise(path, given[0], 1) if layer.num_parameters > 1 else given[0]
        if any(True for _ in layer.parameters()) or isinstance(layer, Recurrent):
            for part in given:
                self.labels.pin(part, f"{path}, a {type(layer).__name__}, reads its channels")
            return None
        return self._elementwise_or_spatial(given, value)

    def _slot(self, path: str, role: str, labels: Tensor, axis: int = 0) -> Tensor:
        """Note a slot, and return its labels; one that is met again keeps those it had, which are then one class with the new ones."""
        known = self.slots.get((path, role))
        if known is None:
            self.slots[path, role] = Slot(path, role, axis, labels)
            return labels
        self.labels.join(known.labels, labels)
        return known.labels

    def _rows(self, path: str, count: int) -> Tensor:
        known = self.slots.get((path, OUT))
        return self._slot(path, OUT, self.labels.fresh(count)) if known is None else known.labels

    def _weighted(self, path: str, given: Tensor, axis: int, outputs: int, value: Tensor) -> Tensor:
        self._slot(path, IN, self._along(given, axis))
        return _spread(self._rows(path, outputs), axis, value.shape)

    def _along(self, given: Tensor, axis: int) -> Tensor:
        """Return the labels (size,) of an axis; those that differ along others, as where pixels are shuffled, are made one class."""
        found = along(given, axis)
        if found is None:
            rows = given.movedim(axis, 0).reshape(given.shape[axis], -1)
            self.labels.join(rows[:, :1].expand(rows.shape), rows)
            found = self.labels.roots(rows[:, 0].clone())
        return found

    def _convolution(self, path: str, layer: Convolution, given: Tensor, value: Tensor) -> Tensor:
        axis = given.dim() - len(layer.kernel_size) - 1
        found = self._weighted(path, given, axis, layer.out_channels, value)
        if layer.groups > 1:  # a group of such a convolution goes as a whole
            inputs, outputs = (self.slots[path, role].labels.reshape(layer.groups, -1) for role in (IN, OUT))
            for part in (inputs, outputs):
                self.labels.join(inputs[:, :1].expand(part.shape), part)
        return found

    def _channelwise(self, path: str, given: Tensor, axis: int) -> Tensor:
        if axis > 0 or along(given, axis) is not None:  # a norm over the width of a head has the same values for all heads
            self._slot(path, VALUE, self._along(given, axis))
        return given

    def _group_norm(self, path: str, layer: nn.GroupNorm, given: Tensor) -> Tensor:
        channels = self._along(given, 1)
        self._slot(path, VALUE, channels)
        blocks = channels.reshape(layer.num_groups, -1)
        self.labels.join(blocks[:, :1].expand(blocks.shape), blocks)
        return given

    def _parameter(self, path: str, value: Any) -> Tensor | None:
        """Give each element of a parameter or buffer a label of its own, and note the axis by which it is cut."""
        if not isinstance(value, Tensor) or value.numel() < 2:
            return None
        known = self.slots.get((path, VALUE))
        if known is None:
            known = Slot(path, VALUE, -1, self.labels.fresh(value.numel()))
            self.slots[path, VALUE] = known
        return known.labels.reshape(value.shape)


def _moved_by(move: Callable[[Any], Any], labels: Any) -> Any:
    """Return moved labels, by a kernel that may know no whole numbers; those up to 2**53 are the same as floats."""
    try:
        return move(labels)
    except RuntimeError:
        return _whole(move(_in_floats(labels)))


def _in_floats(labels: Any) -> Any:
    return (
        labels.double()
        if isinstance(labels, Tensor)
        else type(labels)(map(_in_floats, labels))
        if isinstance(labels, tuple | list)
        else labels
    )


def _whole(labels: Any) -> Any:
    return labels.long() if isinstance(labels, Tensor) else tuple(map(_whole, labels)) if isinstance(labels, tuple | list) else labels


def _name_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _label_set(labels: Tensor) -> set[int]:
    return set(torch.unique(labels).tolist()) - {NONE}


def _fitting(labels: Any, value: Any) -> Any:
    """Return labels in the form of a value: NONE for each tensor that has none, None for what is no tensor."""
    if isinstance(value, Tensor):
        fits = isinstance(labels, Tensor) and labels.shape == value.shape
        return shrunk(labels) if fits else torch.zeros((), dtype=torch.int64).expand(value.shape)
    if isinstance(value, tuple | list):
        parts = labels if isinstance(labels, tuple | list) and len(labels) == len(value) else [None] * len(value)
        made = tuple(_fitting(part, each) for part, each in zip(parts, value, strict=True))
        return made if any(part is not None for part in made) else None
    return None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in _flat(part)]
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _flat(part)]
    return [value] if isinstance(value, Tensor) else []


def _spread(labels: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Return labels (size,) of an axis for all elements of a tensor of that shape."""
    form = [1] * len(shape)
    form[axis] = len(labels)
    return labels.reshape(form).expand(tuple(shape))


def _broadcasts(parts: Sequence[Tensor], shape: Sequence[int]) -> bool:
    try:
        return bool(torch.broadcast_shapes(*(part.shape for part in parts)) == tuple(shape))  # type: ignore[no-untyped-call]  # untyped in torch
    except RuntimeError:
        return False


def _is_gate(part: Tensor, whole: Tensor, shape: Sequence[int]) -> bool:
    """Return whether a part is repeated along an axis on which the labels of the whole differ."""
    sizes = (1,) * (len(shape) - part.dim()) + tuple(part.shape)
    return any(mine == 1 and size > 1 and not _same_along(whole, axis) for axis, (mine, size) in enumerate(zip(sizes, shape, strict=True)))


def _is_gate_of(whole: Tensor, original: Tensor, other: Tensor) -> bool:
    return _is_gate(original, other, tuple(whole.shape))


def _same_along(labels: Tensor, axis: int) -> bool:
    return labels.stride(axis) == 0 or bool((labels == labels.narrow(axis, 0, 1)).all())


def _where_both(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors of labels with NONE in both where it is in one."""
    both = (first != NONE) & (second != NONE)
    return torch.where(both, first, NONE), torch.where(both, second, NONE)
