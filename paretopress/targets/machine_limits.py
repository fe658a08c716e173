"""Limits of this machine and process: caches, memory, cores and quotas, by which virtual machines and containers differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretopress.targets.machine_state import text_of

# model of an ARM board; vendor and product of a PC, which name the kind of a virtual machine
_BOARD = (
    Path("/sys/firmware/devicetree/base/model"),
    Path("/sys/class/dmi/id/sys_vendor"),
    Path("/sys/class/dmi/id/product_name"),
)
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping")
# version 1 of cgroups writes a number about 2^63 where there is no limit
_UNLIMITED_BYTES = 1 << 60


def machine_limits(processor: Mapping[str, str]) -> dict[str, Any]:
    """Return what tells this machine, virtual machine or container from another with the same processor, as JSON values.

    Args: processor: the fields of the first processor in /proc/cpuinfo.
    Returns: processor (vendor, family, model, stepping), microcode, virtual (a hypervisor runs it), board, caches (by level and type),
        memory_gib, cores_allowed (numbers of the cores that this process may run on), cpu_quota (cores' worth of time that its control
        groups grant), memory_limit_mib (theirs as well). What the system does not show, or does not limit, is None or empty.
    """
    return {
        "processor": "-".join(processor[key] for key in _PROCESSOR if processor.get(key)),
        "microcode": processor.get("microcode"),
        "virtual": "hypervisor" in processor.get("flags", "").split(),
        "board": " ".join(filter(None, (_line(path) for path in _BOARD))),
        "caches": _caches(),
        "memory_gib": _memory_gib(),
        "cores_allowed": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "cpu_quota": _cpu_quota(),
        "memory_limit_mib": _memory_limit_mib(),
    }


def _line(path: Path) -> str:
    return text_of(path).strip("\0 \n")


def _caches() -> dict[str, str]:
    found = {}
    for place in sorted(_CACHES.glob("index*")):
        level, kind, size = (_line(place / name) for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level} {kind}"] = size
    return found


def _memory_gib() -> int | None:
    for line in _line(_MEMINFO).splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20)  # whole ones: what the kernel keeps for itself changes with its version
    return None


def _groups(controller: str) -> list[Path]:
    """Return the folders of the control groups that hold this process, of version 2 and of version 1's controller, outer ones too."""
    found: list[Path] = []
    for line in [*_line(_OWN_CGROUP).splitlines(), "0::/", f"1:{controller}:/"]:  # a container may see its own group as the root
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        group = root / path.strip("/")
        found += [group, *(outer for outer in group.parents if outer.is_relative_to(root))]
    return list(dict.fromkeys(found))


def _cpu_quota() -> float | None:
    quotas = []
    for group in _groups("cpu"):
        quota, _, period = _line(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _line(group / "cpu.cfs_quota_us"), _line(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit_mib() -> int | None:
    limits = []
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _line(group / name)
            if text.isdecimal() and int(text) < _UNLIMITED_BYTES:
                limits.append(int(text) >> 20)
    return min(limits, default=None)
