"""What ONNX Runtime can run natively on a processor, derived from its ISA flags alone: nothing here was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
INT8_KERNELS = frozenset({"avx2", "avx512f", "neon", "asimd"}) | VNNI


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the flags of a processor promise.

    Attributes:
        channel_step: channels in one block of the runtime's NCHWc layout; a width that is no multiple of it loses the layout.
        vnni: x86 int8 dot product (AVX512-VNNI or AVX-VNNI).
        int8_activations: the runtime has vector kernels for 8-bit weights with 8-bit activations.
        weight_only_bits: bit widths of weight-only quantisation that have a CPU kernel (MatMulNBits).
        reduce_range: weights must be quantised to 7 bits, or the 16-bit sums of `vpmaddubsw` saturate.
    """

    channel_step: int
    vnni: bool
    int8_activations: bool
    weight_only_bits: tuple[int, ...]
    reduce_range: bool


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
