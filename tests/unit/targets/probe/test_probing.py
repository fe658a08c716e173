"""Opening a target, and when it is probed; the probe itself is replaced by a report made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from paretopress.errors import ConfigError
from paretopress.system.deadline import Deadline
from paretopress.targets.capabilities import detect
from paretopress.targets.probe import probing
from paretopress.targets.probe.probe_report import ProbeReport, probe_fingerprint
from paretopress.targets.probe.probing import LOCAL, cached_probe, opener, probe_target, target_facts
from paretopress.targets.probe.report_cache import write_report


@dataclass
class Bench:
    """A target that can be asked what it is, and counts its probes."""

    report: ProbeReport
    runtime: str = "1.31.0"
    probes: int = 0
    asked: int = 0
    said: list[str] = field(default_factory=list)
    name: str = LOCAL

    def environment(self) -> dict[str, Any]:
        self.asked += 1
        facts = {"cpu": "Testor", "machine": "x86_64", "isa": ["avx2"], "cores_logical": 2, "threads": 1, "load_average": [self.probes]}
        return facts | {"versions": {"onnxruntime": self.runtime}}

    def open(self, threads: int) -> Any:
        return self

    def run_probe(self, *_: object) -> ProbeReport:
        self.probes += 1
        return replace(self.report, fingerprint=probe_fingerprint(self.name, self.environment()))

    def probe(self, *, refresh: bool = False) -> ProbeReport:
        return probe_target(self, self.open, self.said.append, refresh=refresh)  # type: ignore[arg-type]


@pytest.fixture
def bench(probe_report: ProbeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bench = Bench(probe_report)
    monkeypatch.setattr(probing, "run_probe", bench.run_probe)
    return bench


def test_opener_pins_to_cores_when_they_are_enough_for_the_threads() -> None:
    open_target = opener(LOCAL, cores=(0,))
    assert open_target(1).environment()["pinned"] == [0]
    with pytest.raises(ConfigError, match="threads=9999"):
        open_target(9999)


def test_probe_target_probes_once_when_nothing_changes(bench: Bench) -> None:
    assert bench.probe() == bench.probe()
    assert bench.probes == 1
    assert bench.said == ["probing local: about a minute, once for this target"]


def test_probe_target_probes_again_when_asked_or_the_fingerprint_changes(bench: Bench) -> None:
    bench.probe()
    bench.probe(refresh=True)
    assert bench.probes == 2
    bench.runtime = "1.32.0"
    assert bench.probe().fingerprint["onnxruntime"] == "1.32.0"
    assert bench.probes == 3


def test_probe_target_probes_again_when_the_cache_is_damaged(bench: Bench) -> None:
    write_report(bench.probe()).write_text("{")
    assert bench.probe() == cached_probe(bench)  # type: ignore[arg-type]
    assert bench.probes == 2


def test_probe_target_returns_the_report_when_it_cannot_be_kept(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "paretopress").write_text("a file in the way")
    assert bench.probe().channel_step == 16
    assert bench.said[-1].startswith("the probe could not be kept for later: the cache folder must be writable")


def test_target_facts_record_the_probe_when_there_is_one(bench: Bench) -> None:
    facts = target_facts(bench, bench.open, bench.said.append, probe=True)
    report = bench.probe()
    assert facts["capabilities"] == report.capabilities().to_json()
    assert facts["probe"] == {"fingerprint": report.digest(), "date": "2026-11-22T07:00:00+00:00"}
    assert (facts["target"], facts["cpu"]) == ("local", "Testor")
    assert "host" not in facts
    assert bench.probes == 1


def test_target_facts_ask_the_target_once_when_its_probe_is_known(bench: Bench) -> None:
    bench.probe()
    before = bench.asked
    target_facts(bench, bench.open, bench.said.append, probe=True)
    assert bench.asked == before + 1


def test_target_facts_follow_the_flags_when_no_probe_is_wanted(bench: Bench) -> None:
    bench.probe()
    facts = target_facts(bench, bench.open, bench.said.append, probe=False)
    assert facts["capabilities"] == detect(bench.environment()).to_json()
    assert facts["probe"] is None
    assert "not measured" in bench.said[-1]


def test_target_facts_tell_this_host_too_when_the_target_is_another(bench: Bench) -> None:
    bench.name = "ssh://pi@board:22"
    facts = target_facts(bench, bench.open, bench.said.append, probe=True)
    assert (facts["target"], facts["cpu"]) == ("ssh://pi@board:22", "Testor")
    assert facts["host"]["versions"]["onnxruntime"]


def test_target_facts_follow_the_flags_when_there_is_no_time_for_a_probe(bench: Bench) -> None:
    soon = Deadline(30.0, lambda: 0.0)
    facts = target_facts(bench, bench.open, bench.said.append, probe=True, until=soon)
    assert facts["probe"] is None
    assert bench.probes == 0
    assert "takes about 60 s of 30 s" in bench.said[-1]
    bench.probe()
    again = target_facts(bench, bench.open, bench.said.append, probe=True, until=soon)
    assert again["probe"] is not None  # one that is there costs nothing
