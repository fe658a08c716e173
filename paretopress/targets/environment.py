"""The environment of a measurement: processor, its state, and versions of the runtime."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

try:
    import psutil
except ImportError:  # a device that an agent measures on need not have it
    psutil = None  # type: ignore[assignment]

from paretopress.targets.machine_limits import machine_limits
from paretopress.targets.machine_state import clock_state, text_of

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("onnxruntime", "onnx", "numpy")
_TIMER_READINGS = 1000
# Names as the Linux kernel spells them; asimd is AArch64's NEON, asimddp its dot product, i8mm its int8 matrix multiply.
ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Return (name or "", those of `ISA_FLAGS` that the first processor has, in that order) from the text of /proc/cpuinfo.

    The name is the "model name" of x86. ARM boards have none: there it is made of the kinds of core, "0x41/0xd08 r0p3" for implementer,
    part, variant and revision, and of the board's model where the kernel names it.
    """
    fields = _first_values(text)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", "") or _arm_name(text, fields), tuple(flag for flag in ISA_FLAGS if flag in flags)


def _first_values(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _arm_name(text: str, fields: Mapping[str, str]) -> str:
    """Return the kinds of core in the order of the processors, because a big.LITTLE board has several, and the board's model."""
    kinds: dict[str, None] = {}
    for processor in text.split("\n\n"):
        core = _first_values(processor)
        if "CPU part" in core:
            variant, revision = core.get("CPU variant", "?").removeprefix("0x"), core.get("CPU revision", "?")
            kinds[f"{core.get('CPU implementer', '?')}/{core['CPU part']} r{variant}p{revision}"] = None
    board = fields.get("Model") or fields.get("Hardware") or ""
    return ", ".join(part for part in (" + ".join(kinds), board) if part)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def timer_resolution_ns() -> int | None:
    """Return the smallest step that `time.perf_counter_ns` was seen to make between two readings, None if it made none."""
    readings = [time.perf_counter_ns() for _ in range(_TIMER_READINGS)]
    return min((later - earlier for earlier, later in pairwise(readings) if later > earlier), default=None)


def environment() -> dict[str, Any]:
    """Return what this host is, as JSON values; a fact that the system does not show is None or empty.

    Keys: cpu, machine, isa (kernel names, only those of `ISA_FLAGS`), cores_logical, cores_physical, those of `machine_limits` and of
    `clock_state`, load_average (1, 5 and 15 minutes), platform, timer_ns (smallest step of the clock), versions (python, onnxruntime,
    onnx, numpy).
    """
    cpuinfo = text_of(CPUINFO)
    model, isa = parse_cpuinfo(cpuinfo)
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "isa": list(isa),
        "cores_logical": os.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False) if psutil else None,
        **machine_limits(_first_values(cpuinfo)),
        **clock_state(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "timer_ns": timer_resolution_ns(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
