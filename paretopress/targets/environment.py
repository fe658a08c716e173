"""What a measurement was made on: processor, its state, and the versions of the runtime."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

try:
    import psutil
except ImportError:  # a device that an agent measures on need not have it
    psutil = None  # type: ignore[assignment]

from paretopress.targets.machine_state import clock_state

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
    """Return (model name or "", those of `ISA_FLAGS` that the first processor has, in that order) from the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", ""), tuple(flag for flag in ISA_FLAGS if flag in flags)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


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

    Keys: cpu, machine, isa (kernel names, only those of `ISA_FLAGS`), cores_logical, cores_physical, those of `clock_state`,
    load_average (1, 5 and 15 minutes), platform, timer_ns (smallest step of the clock), versions (python, onnxruntime, onnx, numpy).
    """
    model, isa = parse_cpuinfo(_text(CPUINFO))
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "isa": list(isa),
        "cores_logical": os.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False) if psutil else None,
        **clock_state(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "timer_ns": timer_resolution_ns(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
