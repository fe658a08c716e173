"""Capabilities by ISA flags, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from paretopress.core.model_graph import Layer, LayerKind
from paretopress.targets.capabilities import Capabilities, Family, capabilities_in, detect, family_of


@dataclass(frozen=True)
class Case:
    name: str
    machine: str
    isa: tuple[str, ...]
    expected: Capabilities


CASES = (
    Case("avx512-vnni", "x86_64", ("avx2", "avx512f", "avx512_vnni"), Capabilities(16, True, True, (4,), False)),
    Case("avx512", "x86_64", ("avx2", "avx512f"), Capabilities(16, False, True, (4,), True)),
    Case("avx2", "AMD64", ("avx2",), Capabilities(8, False, True, (4,), True)),
    Case("avx2-vnni", "x86_64", ("avx2", "avx_vnni"), Capabilities(8, True, True, (4,), False)),
    Case("sse", "x86_64", (), Capabilities(8, False, False, (4,), True)),
    Case("arm", "aarch64", ("asimd", "asimddp"), Capabilities(8, False, True, (4,), False)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_detect_follows_the_flags_when_the_machine_is_known(case: Case) -> None:
    assert detect({"machine": case.machine, "isa": list(case.isa)}) == case.expected


def test_detect_promises_nothing_when_the_environment_is_empty() -> None:
    assert detect({}) == Capabilities(8, False, False, (4,), False)


PROBED = Capabilities(
    channel_step=16,
    vnni=True,
    int8_activations=True,
    weight_only_bits=(4,),
    reduce_range=False,
    slow_int8={"depthwise": "1.60x slower than float"},
    min_int8_channels=16,
    slow_int4="2.00x slower than float",
    measured=True,
)


def layer(kind: LayerKind, inputs: int = 32, outputs: int = 32, kernel: int = 3) -> Layer:
    return Layer("layer", kind, inputs, outputs, (kernel, kernel), (1, 1), 1, 1, 1, (outputs, 8, 8))


@pytest.mark.parametrize(
    ("a_layer", "family"),
    [
        (layer(LayerKind.CONV), Family.DENSE),
        (layer(LayerKind.CONV, kernel=1), Family.POINTWISE),
        (layer(LayerKind.CONV, inputs=3), Family.STEM),
        (layer(LayerKind.DEPTHWISE), Family.DEPTHWISE),
        (layer(LayerKind.LINEAR, kernel=1), Family.LINEAR),
        (layer(LayerKind.GROUPED), None),
    ],
)
def test_family_of_tells_what_the_runtime_treats_alike_when_asked(a_layer: Layer, family: Family | None) -> None:
    assert family_of(a_layer) is family


@pytest.mark.parametrize(
    ("a_layer", "bits", "reason"),
    [
        (layer(LayerKind.DEPTHWISE), 8, "int8 depthwise layers are 1.60x slower than float on this target"),
        (layer(LayerKind.CONV), 8, ""),
        (layer(LayerKind.CONV, outputs=8), 8, "int8 convolutions below 16 channels are slower than float on this target"),
        (layer(LayerKind.CONV, inputs=8), 8, "int8 convolutions below 16 channels are slower than float on this target"),
        (layer(LayerKind.CONV, outputs=16), 8, ""),
        (layer(LayerKind.CONV, outputs=8, kernel=1), 8, ""),
        (layer(LayerKind.LINEAR, outputs=10, kernel=1), 8, ""),
        (layer(LayerKind.GROUPED), 8, ""),
        (
            layer(LayerKind.LINEAR, kernel=1),
            4,
            "4-bit weights are 2.00x slower than float on this target, and no size_bytes is asked for",
        ),
    ],
)
def test_refusal_names_the_finding_when_a_width_gains_nothing(a_layer: Layer, bits: int, reason: str) -> None:
    assert PROBED.refusal(a_layer, bits) == reason


@pytest.mark.parametrize("kind", list(LayerKind))
def test_refusal_is_empty_when_nothing_was_measured(kind: LayerKind) -> None:
    assert detect({}).refusal(layer(kind, 3, 2), 8) == detect({}).refusal(layer(kind, 3, 2), 4) == ""


def test_capabilities_in_returns_what_was_recorded_after_json() -> None:
    recorded = json.loads(json.dumps({"isa": ["avx2"], "machine": "x86_64", "capabilities": PROBED.to_json()}))
    assert capabilities_in(recorded) == PROBED


def test_capabilities_in_follows_the_flags_when_none_were_recorded() -> None:
    env = {"isa": ["avx2"], "machine": "x86_64"}
    assert capabilities_in(env) == detect(env) == replace(detect({}), int8_activations=True, reduce_range=True)
