"""The report of a probe, and the capabilities that follow from it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from paretopress.system.disk_cache import sources_sha256
from paretopress.targets.capabilities import Capabilities, Family, detect

# a choice alone may lose a little of what it gains beside its neighbours; what loses clearly more is not worth a trial
TOLERATED_SLOWDOWN = 1.1
_DEPENDED_ON = (
    *("cpu", "machine", "isa", "cores_logical", "threads", "pinned"),
    *("processor", "microcode", "virtual", "board", "caches", "memory_gib", "cores_allowed", "cpu_quota", "memory_limit_mib"),
)


def probe_fingerprint(target_name: str, env: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a probe's findings and a latency depend on: a target's name and environment, and this package, which measures."""
    versions = env.get("versions") or {}
    known = {key: env.get(key) for key in _DEPENDED_ON}
    return {"target": target_name, **known, "onnxruntime": versions.get("onnxruntime"), "paretopress": _measured_by()}


@functools.cache
def _measured_by() -> str:
    """Return this package's version and, because a checkout changes without it, a hash of the sources that measure."""
    try:
        version = importlib.metadata.version("paretopress")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        version = "?"
    return f"{version}+{sources_sha256('runtimes', 'targets')[:12]}"


def fingerprint_digest(fingerprint: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name a fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Finding:
    """One model measured in turns with another.

    Attributes:
        key: what was compared, e.g. "int8/depthwise/relu". name, against: the same in words.
        ratio, ratio_ci: latency of the one / the other, with its 95 % interval.
    """

    key: str
    name: str
    against: str
    ratio: float
    ratio_ci: tuple[float, float]

    @property
    def is_offered(self) -> bool:
        """Return whether a search should try it: it is not slower by clearly more than 10 %."""
        return self.ratio_ci[0] <= TOLERATED_SLOWDOWN

    def in_words(self) -> str:
        """Return e.g. "1.60x slower than float"; "as fast as float" where the interval holds 1."""
        low, high = self.ratio_ci
        if low <= 1.0 <= high:
            return f"as fast as {self.against}"
        return f"{self.ratio:.2f}x slower than {self.against}" if low > 1.0 else f"{1 / self.ratio:.2f}x faster than {self.against}"


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Everything that one probe found.

    Attributes:
        fingerprint: of the target, see `probe_fingerprint`.
        date: ISO 8601, UTC. duration_s: of the probe.
        channel_step: of the blocked layout, in channels.
        reduce_range: int8 sums saturate unless weights have 7 bits.
        noise_floor: half of the width of the 95 % interval of a file's ratio to itself.
        timer_ns: smallest step of the target's clock, None where the target does not tell.
        fp32_peak_gmac_per_s, int8_peak_gmac_per_s: multiply-adds of large convolutions, 10^9 a second; None if int8 did not run.
        findings: in the order in which they were measured.
        failed: name -> why the runtime did not run it.
    """

    fingerprint: Mapping[str, Any]
    date: str
    duration_s: float
    channel_step: int
    reduce_range: bool
    noise_floor: float
    timer_ns: int | None
    fp32_peak_gmac_per_s: float
    int8_peak_gmac_per_s: float | None
    findings: tuple[Finding, ...]
    failed: Mapping[str, str]
    schema: Literal[1] = 1

    def digest(self) -> str:
        """Return the name of the fingerprint in 16 hex digits."""
        return fingerprint_digest(self.fingerprint)

    def finding(self, key: str) -> Finding | None:
        """Return the finding of that key, None if the runtime did not run it."""
        return next((finding for finding in self.findings if finding.key == key), None)

    def capabilities(self) -> Capabilities:
        """Return what a search may use; the flags decide what was not measured."""
        int4 = self.finding("int4/linear")
        slow_int8 = self._slow_int8()
        return replace(
            detect(self.fingerprint),
            channel_step=self.channel_step,
            int8_activations=len(slow_int8) < len(Family),
            weight_only_bits=() if int4 is None else (4,),
            reduce_range=self.reduce_range,
            slow_int8=slow_int8,
            min_int8_channels=self._min_int8_channels(),
            slow_int4="" if int4 is None or int4.is_offered else int4.in_words(),
            measured=True,
        )

    def verdict(self, finding: Finding) -> str:
        """Return what was found in words, and what a search makes of it."""
        capabilities = self.capabilities()
        topic, _, rest = finding.key.partition("/")
        case = rest.partition("/")[0]
        follows = ""
        if topic == "int8" and case in list(Family):
            offered = "offered" if finding.is_offered else "offered for what it gains beside other int8 layers"
            follows = "left in fp32" if case in capabilities.slow_int8 else offered
        elif topic == "int8_width":
            follows = "left in fp32" if int(case) < capabilities.min_int8_channels else "offered"
        elif topic == "int4":
            follows = "offered for size alone" if capabilities.slow_int4 else "offered"
        return f"{finding.in_words()}: {follows}" if follows else finding.in_words()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back; it says the verdicts and capabilities too."""
        value: dict[str, Any] = _REPORT.dump_python(self, mode="json")
        for written, finding in zip(value["findings"], self.findings, strict=True):
            written["verdict"] = self.verdict(finding)
        return value | {"capabilities": self.capabilities().to_json()}

    @classmethod
    def from_json(cls, text: str | bytes) -> ProbeReport:
        """Return the report in a JSON text; raises ValueError for another schema, or what `to_json` did not write."""
        return _REPORT.validate_json(text)

    def _slow_int8(self) -> dict[str, str]:
        """Return family -> the best that int8 reached, for families where nothing that was measured is worth offering."""
        slow: dict[str, str] = {}
        for family in Family:
            found = [finding for finding in self.findings if finding.key.startswith(f"int8/{family}")]
            if not any(finding.is_offered for finding in found):
                best = min(found, key=lambda finding: finding.ratio, default=None)
                slow[family.value] = "not run in int8" if best is None else best.in_words()
        return slow

    def _min_int8_channels(self) -> int:
        """Return the narrowest width from which on int8 is worth offering at every wider one; 1 if it is at all."""
        found = {int(finding.key.partition("/")[2]): finding for finding in self.findings if finding.key.startswith("int8_width/")}
        least = 1
        for width, finding in sorted(found.items()):
            if not finding.is_offered:
                least = min((wider for wider in found if wider > width), default=width + 1)
        return least


_REPORT = TypeAdapter(ProbeReport)
