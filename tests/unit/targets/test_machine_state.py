"""What others did to the machine, from counters written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.targets import machine_state as module
from paretopress.targets.machine_state import (
    CpuTimes,
    Disturbance,
    LoadOfOthers,
    clock_state,
    cpu_times,
    disturbance,
    parse_proc_stat,
    state_warnings,
)

STAT = "cpu  1000 200 300 9000 50 0 100 400 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_parse_proc_stat_adds_busy_fields_when_read() -> None:
    assert parse_proc_stat(STAT, 100) == (16.0, 4.0)  # (1000 + 200 + 300 + 0 + 100) / 100 and 400 / 100


@pytest.mark.parametrize("text", ["", "intr 1 2 3\n", "cpu 1 2 3\n"])
def test_parse_proc_stat_knows_nothing_when_the_kernel_does_not_tell(text: str) -> None:
    assert parse_proc_stat(text, 100) == (None, None)


def test_disturbance_counts_others_alone_when_this_process_worked_too() -> None:
    before = CpuTimes(at_s=10.0, busy_s=100.0, stolen_s=5.0, own_s=50.0, throttled=3)
    after = CpuTimes(at_s=12.0, busy_s=103.0, stolen_s=5.5, own_s=52.0, throttled=3)
    # 3 s busy and 0.5 s stolen, 2 s of them its own, in 2 s
    assert disturbance(before, after) == Disturbance(pytest.approx(0.75), throttled=False)


def test_disturbance_sees_throttling_when_the_counter_moves() -> None:
    before, after = (CpuTimes(at, None, None, 0.0, count) for at, count in ((0.0, 3), (1.0, 4)))
    assert disturbance(before, after) == Disturbance(None, throttled=True)


def test_disturbance_says_nothing_when_the_time_is_short() -> None:
    before, after = (CpuTimes(at, at, 0.0, 0.0, None) for at in (0.0, 0.05))
    assert disturbance(before, after).foreign_cores is None


def test_cpu_times_move_forward_when_read_twice() -> None:
    first, second = cpu_times(), cpu_times()
    assert second.at_s >= first.at_s
    assert second.own_s >= first.own_s


def test_clock_state_takes_the_files_when_the_kernel_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu0/cpufreq/scaling_governor": "powersave\n",
        "cpu0/cpufreq/scaling_cur_freq": "800000\n",
        "cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
        "thermal/thermal_zone0/temp": "41000\n",
        "thermal/thermal_zone1/temp": "66500\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "CPU0", tmp_path / "cpu0")
    monkeypatch.setattr(module, "THERMAL", tmp_path / "thermal")
    state = clock_state()
    assert state == {"governor": "powersave", "frequency_mhz": 800.0, "max_frequency_mhz": 2400.0, "temperature_c": 66.5}
    warnings = state_warnings(state | {"load_average": [3.0, 1.0, 1.0], "cores_logical": 4})
    assert [word in warning for word, warning in zip(("powersave", "load", "800 of 2400"), warnings, strict=True)] == [True] * 3


def test_clock_state_is_empty_when_the_system_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU0", tmp_path)
    monkeypatch.setattr(module, "THERMAL", tmp_path)
    assert set(clock_state().values()) == {None}
    assert state_warnings(clock_state()) == []


def test_load_of_others_is_that_since_it_was_asked_last() -> None:
    # 2 s with 1 s of others, then 1 s in which this process alone worked
    counters = iter(CpuTimes(at, busy, 0.0, own, None) for at, busy, own in ((0.0, 10.0, 5.0), (2.0, 13.0, 7.0), (3.0, 14.0, 8.0)))
    load = LoadOfOthers(lambda: next(counters))
    assert (load(), load()) == (0.5, 0.0)
