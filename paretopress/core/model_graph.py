"""The structure of a model: layers, channel groups, residual branches, bit groups, and what is left as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from paretopress.errors import RunFolderError

GRAPH_SCHEMA = 3
# of runs of before, which can be read: their groups name no parts
_WITHOUT_PARTS = 2
# names in the exported file where there is one input, or one output
INPUT, OUTPUT = "input", "output"


class LayerKind(StrEnum):
    """How a layer's weights are laid out."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    GROUPED = "grouped"
    LINEAR = "linear"
    RECURRENT = "recurrent"


def kind_of_conv(groups: int, inputs: int, outputs: int) -> LayerKind:
    """Return the kind of a convolution from so many channels to so many."""
    if groups == 1:
        return LayerKind.CONV
    return LayerKind.DEPTHWISE if groups == inputs == outputs else LayerKind.GROUPED


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name in the exported file, the shape of one item, and its type, "float32" or "int64"."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution, Linear, LSTM or GRU, named by its module path.

    `macs`, of all its calls, and `output_shape` are those of one input (batch 1); `output_shape` is (C, H, W) of an image layer,
    (features,) or (positions, features) of a Linear; `kernel` has an entry per axis of the map.
    """

    name: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    macs: int
    params: int
    output_shape: tuple[int, ...]


class Role(StrEnum):
    """Of what a part of a channel group is: outputs or inputs of a layer, or values that go with channels, as a norm's scales do."""

    OUTPUTS = "outputs"
    INPUTS = "inputs"
    VALUES = "values"


@dataclass(frozen=True, slots=True)
class Part:
    """Entries of a module or parameter that belong to the channels of a group.

    Attributes:
        path: of the module, or of a parameter or buffer that the graph reads itself.
        index: the entries of block after block, equally many each. axis: of a parameter; 0 for a module.
    """

    path: str
    role: Role
    index: tuple[int, ...]
    axis: int = 0

    def of_blocks(self, blocks: Sequence[int], count: int) -> list[int]:
        """Return the entries of some blocks of `count`, in rising order."""
        each = len(self.index) // count
        return sorted(entry for block in blocks for entry in self.index[block * each : (block + 1) * each])


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Layers whose output channels must be pruned together; `name` is the first of them in the model's order.

    Attributes:
        channels: of the first layer. unit: how many of them go together, as a block: an attention's head, a group of a grouped convolution.
        layers: that lose output channels. feeds: that lose input channels with them.
        parts: all that is cut, block by block; () for hidden units of recurrent layers.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    feeds: tuple[str, ...] = ()
    unit: int = 1
    parts: tuple[Part, ...] = ()

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self.channels // self.unit

    def rows(self, blocks: Sequence[int]) -> list[int]:
        """Return the output channels of the first layer that belong to some blocks, in rising order."""
        lead = next(part for part in self.parts if part.path == self.name and part.role is Role.OUTPUTS)
        return lead.of_blocks(blocks, self.blocks)


@dataclass(frozen=True, slots=True)
class ResidualBranch:
    """The layers between an identity skip and its add: with kept[`group`] = 0 the branch is removed and the skip remains.

    `add` is the name of the add in the traced graph, `skip_arg` which of its two arguments is the skip; `groups` are the channel
    groups that live only inside the branch. `group` is the first of them, or the branch's first layer if there is none.
    """

    group: str
    add: str
    skip_arg: int
    layers: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BitGroup:
    """Layers that share one bit width, so that the runtime can fuse the add (if any) that they feed."""

    name: str
    layers: tuple[str, ...]
    bits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Something that is left as it is, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """The structure of one traced model.

    Attributes:
        inputs: in the order in which the model takes them.
        outputs: in the order in which it puts them out; (classes,) is the shape of logits.
        layers: in the order in which the model calls them.
        frozen: what is not pruned, with the reason.
        only_bits: whether a plan can change nothing but the bits.
        fixed_size: why the model runs at no other resolution of its images than the given one; "" where it does, or where nobody asked.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
    channel_groups: tuple[ChannelGroup, ...]
    branches: tuple[ResidualBranch, ...]
    bit_groups: tuple[BitGroup, ...]
    frozen: tuple[Frozen, ...]
    only_bits: bool = False
    fixed_size: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return {"schema": GRAPH_SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelGraph:
        """Return what `to_json` wrote; raises RunFolderError for another schema."""
        if value.get("schema") not in (GRAPH_SCHEMA, _WITHOUT_PARTS):
            raise RunFolderError(f"a model graph must have schema {GRAPH_SCHEMA}, but got schema={value.get('schema')}")
        parts = {
            "inputs": TensorSpec,
            "outputs": TensorSpec,
            "layers": Layer,
            "channel_groups": ChannelGroup,
            "branches": ResidualBranch,
            "bit_groups": BitGroup,
            "frozen": Frozen,
        }
        lists = {key: tuple(part(**{k: _tupled(v) for k, v in item.items()}) for item in value[key]) for key, part in parts.items()}
        lists["channel_groups"] = tuple(replace(group, parts=tuple(map(_part, group.parts))) for group in lists["channel_groups"])
        layers = tuple(replace(layer, kind=LayerKind(layer.kind)) for layer in lists.pop("layers"))
        return cls(layers=layers, **lists, only_bits=value.get("only_bits", False), fixed_size=value.get("fixed_size", ""))

    def layer(self, name: str) -> Layer:
        """Return the layer of that name; raises KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def branch_led_by(self, group: str) -> ResidualBranch | None:
        """Return the residual branch that kept[`group`] = 0 removes, or None."""
        return next((branch for branch in self.branches if branch.group == group), None)

    def bits_by_layer(self, bits: Mapping[str, int], present: Collection[str]) -> dict[str, int]:
        """Return layer -> bits of bit group -> bits, for the layers that are `present` in a module."""
        groups = {group.name: group.layers for group in self.bit_groups}
        return {layer: width for name, width in bits.items() for layer in groups[name] if layer in present}

    def removed_branches(self, kept: Mapping[str, int]) -> list[ResidualBranch]:
        """Return the residual branches that channel group -> channels kept removes, in the model's order."""
        return [branch for branch in self.branches if kept.get(branch.group) == 0]

    def removed_layers(self, kept: Mapping[str, int]) -> set[str]:
        """Return the names of the layers in these branches."""
        return {layer for branch in self.removed_branches(kept) for layer in branch.layers}


def _part(value: Mapping[str, Any]) -> Part:
    return Part(**{name: _tupled(part) for name, part in value.items()} | {"role": Role(value["role"])})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
