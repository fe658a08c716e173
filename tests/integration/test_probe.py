"""The probe of this host, and a search that takes its findings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typed import typed_here

from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.local import LocalTarget
from paretopress.targets.probe.probe_report import Finding, ProbeReport, probe_fingerprint
from paretopress.targets.probe.report_cache import write_report
from paretopress.targets.probe.run_probe import quantised_comparisons, run_probe, width_comparisons

SEARCH = """
schema = 1
model = "user.py:make"
data = "user.py:data"
[budget]
speedup = 1.05
[time]
trials = 3
finalists = 0
[recovery]
short_steps = 0
final_steps = 0
batch_size = 32
"""


@pytest.fixture
def kept_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeReport:
    """Return a made-up report that lies in the cache as if this host had been probed: dense int8 is 9 times as slow as float."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = LocalTarget()
    found = [(f"int8/{family}", 0.5) for family in ("stem", "pointwise", "depthwise", "linear")]
    findings = tuple(
        Finding(key, key, "float", ratio, (ratio, ratio)) for key, ratio in (*found, ("int8/dense", 9.0), ("int4/linear", 0.5))
    )
    report = ProbeReport(
        fingerprint=probe_fingerprint(target.name, target.environment()),
        date="2026-11-22T07:00:00+00:00",
        duration_s=1.0,
        channel_step=32,
        reduce_range=False,
        noise_floor=0.01,
        timer_ns=40,
        fp32_peak_gmac_per_s=70.0,
        int8_peak_gmac_per_s=None,
        findings=findings,
        failed={},
    )
    write_report(report)
    return report


def typed(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paretopress", *map(str, arguments)]
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=where, env=wide, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow  # 40 models of milliseconds, each of them measured
def test_run_probe_finds_everything_when_run_on_this_host() -> None:
    def open_target(threads: int) -> LocalTarget:
        return LocalTarget(SessionSettings(threads), blocks=2, baseline_blocks=2, max_rounds=1)

    report = run_probe(open_target(1), open_target, np.random.default_rng(0))
    keys = {comparison.key for comparison in (*width_comparisons(), *quantised_comparisons())}
    found = {finding.key for finding in report.findings}
    assert report.failed == {}
    assert keys <= found
    assert all(key.startswith("threads/") for key in found - keys)
    for finding in report.findings:
        assert 0.0 < finding.ratio_ci[0] <= finding.ratio <= finding.ratio_ci[1]
    assert report.fp32_peak_gmac_per_s > 0.0
    assert report.noise_floor > 0.0
    assert ProbeReport.from_json(json.dumps(report.to_json())) == report


def test_probe_prints_the_kept_report_when_this_host_was_probed(tmp_path: Path, kept_report: ProbeReport) -> None:
    as_json = typed_here(tmp_path, "probe", "--json")
    assert as_json.returncode == 0, as_json.stderr
    assert json.loads(as_json.stdout) == kept_report.to_json()
    as_table = typed(tmp_path, "probe")
    assert "9.00x slower than float: left in fp32" in as_table.stdout
    assert "Channel step: 32." in as_table.stdout


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--threads", "9999"], "cores of the target, but got threads=9999"), (["--target", "moon"], "moon")]
)
def test_probe_says_what_is_wrong_when_the_target_cannot_be(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = typed_here(tmp_path, "probe", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_search_offers_no_slow_width_when_the_target_was_probed(workplace: Path, kept_report: ProbeReport) -> None:
    (workplace / "search.toml").write_text(SEARCH)
    done = typed(workplace, "search", "search.toml", "--run", "run")
    assert "not offered: 2.conv1 in 8 bits (int8 dense layers are 9.00x slower than float on this target)" in done.stdout, done.stderr
    state = json.loads((workplace / "run/state.json").read_text())
    assert state["environment"]["probe"] == {"fingerprint": kept_report.digest(), "date": kept_report.date}
    assert state["environment"]["capabilities"]["channel_step"] == 32
    assert state["environment"]["capabilities"]["measured"]

    (workplace / "cache").rename(workplace / "gone")
    resumed = typed(workplace, "resume", "run")
    assert "probing" not in resumed.stdout
    assert resumed.returncode == done.returncode, resumed.stderr
