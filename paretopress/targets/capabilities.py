"""What ONNX Runtime can run natively on a processor: measured by a probe, or derived from the processor's ISA flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from paretopress.core.model_graph import Layer, LayerKind

X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
INT8_KERNELS = frozenset({"avx2", "avx512f", "neon", "asimd"}) | VNNI
IMAGE_CHANNELS = 4


class Family(StrEnum):
    """Layers that the runtime treats alike; `STEM` is a convolution that reads an image of up to 4 channels."""

    STEM = "stem"
    DENSE = "dense"
    POINTWISE = "pointwise"
    DEPTHWISE = "depthwise"
    LINEAR = "linear"


def family_of(layer: Layer) -> Family | None:
    """Return the family of a layer, None for a grouped convolution, of which a probe knows nothing."""
    if layer.kind is LayerKind.CONV:
        if layer.in_channels <= IMAGE_CHANNELS:
            return Family.STEM
        return Family.POINTWISE if set(layer.kernel) == {1} else Family.DENSE
    return {LayerKind.DEPTHWISE: Family.DEPTHWISE, LayerKind.LINEAR: Family.LINEAR}.get(layer.kind)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a target runs natively.

    Attributes:
        channel_step: channels in one block of the runtime's NCHWc layout; a width that is no multiple of it gains nothing.
        vnni: x86 int8 dot product (AVX512-VNNI or AVX-VNNI), by the flags.
        int8_activations: the runtime has fast kernels for 8-bit weights with 8-bit activations.
        weight_only_bits: bit widths of weight-only quantisation that have a CPU kernel (MatMulNBits).
        reduce_range: weights must be quantised to 7 bits, or the 16-bit sums of `vpmaddubsw` saturate.
        slow_int8: family -> how much slower than float, in words; families that gain are not in it.
        min_int8_channels: dense convolutions with fewer inputs or outputs are slower in int8.
        slow_int4: how much slower than float a Linear with 4-bit weights is, in words, or "".
        measured: by a probe; otherwise nothing here was, and what no flag tells is left at its most permissive.
    """

    channel_step: int
    vnni: bool
    int8_activations: bool
    weight_only_bits: tuple[int, ...]
    reduce_range: bool
    slow_int8: Mapping[str, str] = field(default_factory=dict)
    min_int8_channels: int = 1
    slow_int4: str = ""
    measured: bool = False

    def refusal(self, layer: Layer, bits: int) -> str:
        """Return why the layer would gain no speed from that width on the target, or ""."""
        family = family_of(layer)
        if bits == 8 and family is not None and family in self.slow_int8:
            return f"int8 {family} layers are {self.slow_int8[family]} on this target"
        if bits == 8 and family is Family.DENSE and min(layer.in_channels, layer.out_channels) < self.min_int8_channels:
            return f"int8 convolutions below {self.min_int8_channels} channels are slower than float on this target"
        if bits == 4 and self.slow_int4:
            return f"4-bit weights are {self.slow_int4} on this target, and no size_bytes is asked for"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return asdict(self) | {"weight_only_bits": list(self.weight_only_bits)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Capabilities:
        """Return what `to_json` wrote."""
        return cls(**(dict(value) | {"weight_only_bits": tuple(value["weight_only_bits"])}))


def detect(env: Mapping[str, Any]) -> Capabilities:
    """Return the capabilities that `env` (from `environment`) implies by its keys `isa` and `machine`.

    The channel step is 16 with AVX-512 and 8 elsewhere; `reduce_range` is set on x86 without VNNI.
    Source: ONNX Runtime documentation, "Quantize ONNX models", on U8S8 saturation with AVX2 and AVX-512.
    """
    isa = frozenset(env.get("isa") or ())
    vnni = bool(isa & VNNI)
    return Capabilities(
        channel_step=16 if "avx512f" in isa else 8,
        vnni=vnni,
        int8_activations=bool(isa & INT8_KERNELS),
        weight_only_bits=(4,),
        reduce_range=str(env.get("machine", "")).lower() in X86 and not vnni,
    )


def capabilities_in(env: Mapping[str, Any]) -> Capabilities:
    """Return the capabilities that a run recorded in its environment, or those that the environment's flags imply."""
    recorded = env.get("capabilities")
    return Capabilities.from_json(recorded) if recorded else detect(env)
