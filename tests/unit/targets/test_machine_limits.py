"""What tells containers and virtual machines on the same processor apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopress.targets import machine_limits as module
from paretopress.targets.machine_limits import machine_limits
from paretopress.targets.probe.probe_report import fingerprint_digest, probe_fingerprint

PROCESSOR = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "85", "stepping": "7", "microcode": "0x1", "flags": "fpu avx2"}


def written(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's files of which there are none yet, with two cores allowed."""
    monkeypatch.setattr(module, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(module, "_CACHES", tmp_path / "cache")
    monkeypatch.setattr(module, "_BOARD", (tmp_path / "board",))
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {1, 0})
    return tmp_path


def test_machine_limits_leaves_facts_empty_when_the_system_hides_them(machine: Path) -> None:
    facts = machine_limits({})
    assert facts == {
        "processor": "",
        "microcode": None,
        "virtual": False,
        "board": "",
        "caches": {},
        "memory_gib": None,
        "cores_allowed": [0, 1],
        "cpu_quota": None,
        "memory_limit_mib": None,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"own": "0::/", "cgroup/cpu.max": "max 100000", "cgroup/memory.max": "max"}, (None, None)),
        ({"own": "0::/", "cgroup/cpu.max": "150000 100000", "cgroup/memory.max": "536870912"}, (1.5, 512)),
        ({"own": "0::/a/b", "cgroup/a/cpu.max": "50000 100000", "cgroup/a/b/cpu.max": "200000 100000"}, (0.5, None)),
        ({"own": "4:cpu,cpuacct:/x", "cgroup/cpu/x/cpu.cfs_quota_us": "200000", "cgroup/cpu/x/cpu.cfs_period_us": "100000"}, (2.0, None)),
        ({"own": "4:cpu:/x", "cgroup/cpu/x/cpu.cfs_quota_us": "-1", "cgroup/cpu/x/cpu.cfs_period_us": "100000"}, (None, None)),
        ({"own": "3:memory:/x", "cgroup/memory/memory.limit_in_bytes": "1073741824"}, (None, 1024)),
        ({"own": "3:memory:/x", "cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712"}, (None, None)),
    ],
    ids=["v2 none", "v2 its own", "v2 of an outer group", "v1 quota", "v1 none", "v1 memory of the root", "v1 memory none"],
)
def test_machine_limits_finds_the_tightest_limit_when_groups_have_any(
    machine: Path, files: dict[str, str], expected: tuple[float | None, int | None]
) -> None:
    written(machine, files)
    facts = machine_limits(PROCESSOR)
    assert (facts["cpu_quota"], facts["memory_limit_mib"]) == expected


def test_machine_limits_names_processor_board_and_caches(machine: Path) -> None:
    caches = {"cache/index0/level": "1", "cache/index0/type": "Data", "cache/index0/size": "32K\n"}
    written(machine, {"board": "Raspberry Pi 5\0", "meminfo": "MemTotal:        8245000 kB\nMemFree: 1 kB\n", **caches})
    facts = machine_limits(PROCESSOR | {"flags": "fpu hypervisor"})
    assert (facts["processor"], facts["microcode"], facts["virtual"]) == ("GenuineIntel-6-85-7", "0x1", True)
    assert (facts["board"], facts["memory_gib"], facts["caches"]) == ("Raspberry Pi 5", 8, {"L1 Data": "32K"})


def test_fingerprints_differ_when_one_of_the_facts_does(machine: Path) -> None:
    facts: dict[str, Any] = machine_limits(PROCESSOR)
    others = {
        "processor": "x",
        "microcode": "0x2",
        "virtual": True,
        "board": "x",
        "caches": {"L2 Unified": "1M"},
        "memory_gib": 4,
        "cores_allowed": [1],
        "cpu_quota": 1.0,
        "memory_limit_mib": 512,
    }
    assert others.keys() == facts.keys()
    digests = {fingerprint_digest(probe_fingerprint("local", facts | {name: other})) for name, other in others.items()}
    assert len(digests | {fingerprint_digest(probe_fingerprint("local", facts))}) == len(facts) + 1
