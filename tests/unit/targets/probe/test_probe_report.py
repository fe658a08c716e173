"""What follows from findings, on a report worked out by hand."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace

import pytest

from paretopress.targets.capabilities import Capabilities
from paretopress.targets.probe import probe_report as module
from paretopress.targets.probe.probe_report import Finding, ProbeReport, fingerprint_digest, probe_fingerprint


def with_finding(report: ProbeReport, key: str, ratio: float) -> ProbeReport:
    found = tuple(replace(f, ratio=ratio, ratio_ci=(ratio, ratio)) if f.key == key else f for f in report.findings)
    return replace(report, findings=found)


def without(report: ProbeReport, prefix: str) -> ProbeReport:
    return replace(report, findings=tuple(f for f in report.findings if not f.key.startswith(prefix)))


@pytest.mark.parametrize(
    ("ratio", "interval", "words", "is_offered"),
    [
        (0.5, (0.45, 0.55), "2.00x faster than float", True),
        (1.02, (0.98, 1.06), "as fast as float", True),
        (1.08, (1.05, 1.09), "1.08x slower than float", True),
        (1.15, (1.09, 1.25), "1.15x slower than float", True),
        (1.6, (1.5, 1.7), "1.60x slower than float", False),
    ],
)
def test_finding_is_offered_unless_clearly_slower_when_judged(
    ratio: float, interval: tuple[float, float], words: str, is_offered: bool
) -> None:
    finding = Finding("int8/dense", "int8 conv", "float", ratio, interval)
    assert (finding.in_words(), finding.is_offered) == (words, is_offered)


def test_capabilities_follow_the_findings_when_probed(probe_report: ProbeReport) -> None:
    assert probe_report.capabilities() == Capabilities(
        channel_step=16,  # measured, where the flags (AVX2) say 8
        vnni=False,
        int8_activations=True,
        weight_only_bits=(4,),
        reduce_range=True,
        slow_int8={"depthwise": "1.60x slower than float"},
        min_int8_channels=16,
        slow_int4="2.00x slower than float",
        measured=True,
    )


def test_capabilities_offer_depthwise_when_it_pays_inside_int8(probe_report: ProbeReport) -> None:
    assert with_finding(probe_report, "int8/depthwise/inside", 0.9).capabilities().slow_int8 == {}


def test_capabilities_need_every_wider_conv_to_pay_when_a_width_is_chosen(probe_report: ProbeReport) -> None:
    assert with_finding(probe_report, "int8_width/8", 0.5).capabilities().min_int8_channels == 1
    assert with_finding(probe_report, "int8_width/16", 1.5).capabilities().min_int8_channels == 32
    assert with_finding(probe_report, "int8_width/32", 1.5).capabilities().min_int8_channels == 33


def test_capabilities_promise_no_width_when_its_models_did_not_run(probe_report: ProbeReport) -> None:
    assert without(probe_report, "int4/").capabilities().weight_only_bits == ()
    no_int8 = without(probe_report, "int8/").capabilities()
    assert not no_int8.int8_activations
    assert set(no_int8.slow_int8.values()) == {"not run in int8"}


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        ("int8/dense", "3.00x faster than float: offered"),
        ("int8/depthwise", "1.80x slower than float: left in fp32"),
        ("int8_width/8", "1.30x slower than float: left in fp32"),
        ("int8_width/16", "1.05x slower than float: offered"),
        ("int4/linear", "2.00x slower than float: offered for size alone"),
    ],
)
def test_verdict_says_what_a_search_makes_of_it_when_asked(probe_report: ProbeReport, key: str, verdict: str) -> None:
    finding = probe_report.finding(key)
    assert finding is not None
    assert probe_report.verdict(finding) == verdict


def test_verdict_says_why_it_is_offered_when_it_is_slower_alone(probe_report: ProbeReport) -> None:
    report = with_finding(probe_report, "int8/depthwise/inside", 0.5)
    finding = report.finding("int8/depthwise")
    assert finding is not None
    assert report.verdict(finding) == "1.80x slower than float: offered for what it gains beside other int8 layers"


def test_verdict_is_the_ratio_alone_when_nothing_follows(probe_report: ProbeReport) -> None:
    assert probe_report.verdict(Finding("float16/dense", "float16", "float", 1.5, (1.4, 1.6))) == "1.50x slower than float"


def test_from_json_reads_what_to_json_wrote_when_it_is_whole(probe_report: ProbeReport) -> None:
    assert ProbeReport.from_json(json.dumps(probe_report.to_json())) == probe_report


@pytest.mark.parametrize("change", [{"schema": 2}, {"findings": [{"key": "int8/dense"}]}, {"channel_step": "wide"}], ids=str)
def test_from_json_raises_when_the_report_is_of_another_form(probe_report: ProbeReport, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ProbeReport.from_json(json.dumps(probe_report.to_json() | change))


def test_probe_fingerprint_changes_with_what_findings_depend_on() -> None:
    env = {"cpu": "A", "machine": "x86_64", "isa": ["avx2"], "cores_logical": 2, "threads": 1, "versions": {"onnxruntime": "1.31.0"}}
    digests = {
        fingerprint_digest(probe_fingerprint(name, env | change))
        for name, change in (
            ("local", {}),
            ("local", {"load_average": [1.0, 1.0, 1.0]}),
            ("other", {}),
            ("local", {"cpu": "B"}),
            ("local", {"isa": ["avx2", "avx_vnni"]}),
            ("local", {"threads": 2}),
            ("local", {"pinned": [1]}),
            ("local", {"versions": {"onnxruntime": "1.32.0"}}),
        )
    }
    assert len(digests) == 7  # the load is no part of it


def test_probe_fingerprint_changes_when_this_package_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = probe_fingerprint("local", {})
    monkeypatch.setattr(module, "_measured_by", lambda: "0.2.0+0")
    assert fingerprint_digest(probe_fingerprint("local", {})) != fingerprint_digest(before)
    assert str(before["paretopress"]).startswith(importlib.metadata.version("paretopress"))
