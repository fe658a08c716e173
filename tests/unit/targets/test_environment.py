"""What is read from the host."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from paretopress.targets import environment as module
from paretopress.targets.environment import environment, parse_cpuinfo

X86 = """processor\t: 0
model name\t: Example Xeon @ 2.00GHz
flags\t\t: fpu sse2 avx2 avx512_vnni avx512f

processor\t: 1
model name\t: Another
flags\t\t: fpu amx_int8
"""
PI_4 = (
    "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n"
    "CPU revision\t: 3\n\nHardware\t: BCM2711\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
PI_4_NAME = "0x41/0xd08 r0p3, Raspberry Pi 4 Model B Rev 1.4"
BIG_LITTLE = "\n\n".join(
    f"processor\t: {core}\nFeatures\t: asimd\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: {part}"
    for core, part in enumerate(("0xd05", "0xd05", "0xd0b"))
)
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ("Example Xeon @ 2.00GHz", ("avx2", "avx512f", "avx512_vnni"))),
        (ARM, ("", ("asimd", "asimddp"))),
        (PI_4, (PI_4_NAME, ("asimd",))),
        (PI_4.replace("0xd08", "0xd03"), (PI_4_NAME.replace("0xd08", "0xd03"), ("asimd",))),
        (PI_4.replace("Rev 1.4", "Rev 1.5"), (PI_4_NAME.replace("Rev 1.4", "Rev 1.5"), ("asimd",))),
        (BIG_LITTLE, ("0x41/0xd05 r1p? + 0x41/0xd0b r1p?", ("asimd",))),
        ("", ("", ())),
    ],
)
def test_parse_cpuinfo_reads_the_first_processor_when_there_are_several(text: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert parse_cpuinfo(text) == expected


def test_environment_is_json_when_read_on_this_host() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert facts["cores_logical"] >= 1
    assert facts["timer_ns"] > 0
    assert facts["versions"]["python"] == platform.python_version()
    assert all(facts["versions"][name] for name in ("onnxruntime", "onnx", "numpy"))


def test_environment_takes_the_files_when_the_kernel_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(X86)
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(module, "clock_state", lambda: {"governor": "performance"})
    facts = environment()
    assert facts["cpu"] == "Example Xeon @ 2.00GHz"
    assert facts["isa"] == ["avx2", "avx512f", "avx512_vnni"]
    assert facts["governor"] == "performance"


def test_environment_leaves_facts_empty_when_the_system_hides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    facts = environment()
    assert facts["cpu"]
    assert facts["isa"] == []
    assert facts["versions"]["no-such-package"] is None


def test_environment_leaves_physical_cores_open_when_psutil_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "psutil", None)
    assert environment()["cores_physical"] is None
