"""The state of the machine during a measurement: CPU time of other processes, clock and throttling."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROC_STAT = Path("/proc/stat")
CPU0 = Path("/sys/devices/system/cpu/cpu0")
THERMAL = Path("/sys/class/thermal")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Counters at one moment; None where the system does not show them.

    Attributes:
        busy_s: CPU seconds of all processes on all cores since boot; stolen_s: those a hypervisor gave to other machines.
        own_s: CPU seconds of this process. throttled: times the first core was slowed by heat.
    """

    at_s: float
    busy_s: float | None
    stolen_s: float | None
    own_s: float
    throttled: int | None


def cpu_times() -> CpuTimes:
    """Return the counters of this moment."""
    busy, stolen = parse_proc_stat(text_of(PROC_STAT), os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
    throttled = text_of(CPU0 / "thermal_throttle" / "core_throttle_count").strip()
    return CpuTimes(time.monotonic(), busy, stolen, time.process_time(), int(throttled) if throttled else None)


def parse_proc_stat(text: str, ticks_per_s: int) -> tuple[float | None, float | None]:
    """Return (busy, stolen) seconds from the first line of /proc/stat, or (None, None) if it is not there. Source: proc(5)."""
    words = text.splitlines()[0].split() if text else []
    if len(words) < 9 or words[0] != "cpu":
        return None, None
    user, nice, system, _, _, irq, softirq, steal = (int(word) / ticks_per_s for word in words[1:9])
    return user + nice + system + irq + softirq, steal


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happened to the machine between two moments; `foreign_cores` counts others' CPU time and stolen time, in cores."""

    foreign_cores: float | None
    throttled: bool


def disturbance(before: CpuTimes, after: CpuTimes) -> Disturbance:
    """Return what others did between two moments. The kernel counts in steps of 10 ms, so below 0.1 s nothing is said."""
    passed_s = after.at_s - before.at_s
    throttled = None not in (before.throttled, after.throttled) and after.throttled != before.throttled
    if passed_s < 0.1 or before.busy_s is None or after.busy_s is None or before.stolen_s is None or after.stolen_s is None:
        return Disturbance(None, throttled)
    busy_s = after.busy_s - before.busy_s + after.stolen_s - before.stolen_s
    return Disturbance(max(0.0, busy_s - (after.own_s - before.own_s)) / passed_s, throttled)


@dataclass(slots=True)
class LoadOfOthers:
    """Returns what others took of the processors since it was asked last, in cores; None where that is unknown."""

    read: Callable[[], CpuTimes] = cpu_times
    _before: CpuTimes = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.read()

    def __call__(self) -> float | None:
        """Return the cores; see `disturbance`."""
        before, self._before = self._before, self.read()
        return disturbance(before, self._before).foreign_cores


def clock_state() -> dict[str, Any]:
    """Return what the system shows of the first core's clock and of the temperature, as JSON values; None where it shows nothing.

    Keys: governor, frequency_mhz, max_frequency_mhz, temperature_c (the hottest zone).
    """
    frequency, highest = (_number(CPU0 / "cpufreq" / name) for name in ("scaling_cur_freq", "cpuinfo_max_freq"))  # kHz
    zones = [value for zone in sorted(THERMAL.glob("thermal_zone*/temp")) if (value := _number(zone)) is not None]  # m°C
    return {
        "governor": text_of(CPU0 / "cpufreq" / "scaling_governor").strip() or None,
        "frequency_mhz": frequency and frequency / 1e3,
        "max_frequency_mhz": highest and highest / 1e3,
        "temperature_c": max(zones) / 1e3 if zones else None,
    }


def state_warnings(environment: dict[str, Any]) -> list[str]:
    """Return what spoils measurements on a machine in this state, a sentence each; `environment` as `targets.environment` returns it."""
    found = []
    governor, load, cores = environment.get("governor"), environment.get("load_average"), environment.get("cores_logical") or 1
    if governor not in (None, "performance"):
        found.append(f"the frequency governor is {governor!r}: latencies follow its steps; set it to 'performance' while measuring")
    if load and load[0] > 0.5 * cores:
        found.append(f"the load average is {load[0]:g} on {cores} cores: others are at work; measure on an idle machine")
    frequency, highest = environment.get("frequency_mhz"), environment.get("max_frequency_mhz")
    if frequency and highest and frequency < 0.7 * highest:
        found.append(f"the clock runs at {frequency:.0f} of {highest:.0f} MHz: it may be throttled or saving power")
    return found


def text_of(path: Path) -> str:
    """Return the text of a file of the system, "" where there is none to be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(text_of(path))
    except ValueError:
        return None
