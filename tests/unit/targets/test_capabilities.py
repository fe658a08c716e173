"""Capabilities by ISA flags."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from paretopress.targets.capabilities import Capabilities, detect


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
