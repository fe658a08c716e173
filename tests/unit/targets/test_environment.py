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
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ("Example Xeon @ 2.00GHz", ("avx2", "avx512f", "avx512_vnni"))),
        (ARM, ("", ("asimd", "asimddp"))),
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
