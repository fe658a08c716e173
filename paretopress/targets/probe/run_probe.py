"""Probe a target: time small models on it in turns to find what it runs fast."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError, OutOfTimeError
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.targets.capabilities import Family
from paretopress.targets.probe.probe_models import (
    S8S8,
    U8S8,
    U8S8_CENTRED,
    big_chain,
    big_chain_macs,
    bottleneck_chain,
    extreme_conv,
    family_chain,
    feed_for,
    float16_chain,
    int4_linear_chain,
    narrow_chain,
    residual_chain,
    stem_chain,
    step_chain,
    step_macs,
)
from paretopress.targets.probe.probe_report import Finding, ProbeReport, probe_fingerprint
from paretopress.targets.statistics import median_interval
from paretopress.targets.target import Target

OpenTarget = Callable[[int], Target]
MakeModel = Callable[[], onnx.ModelProto]

STEPS = (1, 4, 8, 16, 32)
FULL_WIDTH, WIDTHS = 64, (63, 60, 56, 48)
INT8_WIDTHS = (8, 16, 32, 64)
THREAD_OCCASIONS = 3
_NAMES = {
    Family.DENSE: "dense 3x3 conv",
    Family.POINTWISE: "pointwise conv",
    Family.DEPTHWISE: "depthwise 3x3 conv",
    Family.LINEAR: "Linear",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models to be measured in turns; key, name and against as in `Finding`."""

    key: str
    name: str
    candidate: MakeModel
    reference: MakeModel
    against: str = "float"


def width_comparisons() -> list[Comparison]:
    """Return float convolutions of several widths against those of 64 channels."""
    full = partial(step_chain, FULL_WIDTH)
    return [
        Comparison(
            f"width/{width}",
            f"{width} channels, {step_macs(width, 1) / step_macs(FULL_WIDTH, 1):.2f} of the MACs",
            partial(step_chain, width),
            full,
            f"{FULL_WIDTH} channels",
        )
        for width in WIDTHS
    ]


def quantised_comparisons() -> list[Comparison]:
    """Return what is compared to float: each family in int8, int8 by width, Q/DQ patterns, 4-bit weights, float16."""
    found = []
    for family, name in _NAMES.items():
        for relu, key, words in ((False, "", ""), (True, "/relu", " and ReLU")):
            chain = partial(family_chain, family, relu=relu)
            found.append(Comparison(f"int8/{family}{key}", f"int8 {name}{words}", partial(chain, pattern=U8S8), chain))
    found += [
        Comparison(
            "int8/depthwise/inside",
            "int8 depthwise between int8 pointwise convs",
            partial(bottleneck_chain, U8S8),
            partial(bottleneck_chain, None),
        ),
        Comparison("int8/stem", "int8 first conv of an image", partial(stem_chain, U8S8), partial(stem_chain, None)),
        Comparison("int8/dense/big", "int8 dense 3x3 conv of 128 channels", partial(big_chain, U8S8), big_chain),
    ]
    for width in INT8_WIDTHS:
        float_chain = partial(narrow_chain, width)
        found.append(Comparison(f"int8_width/{width}", f"int8 conv of {width} channels", partial(float_chain, U8S8), float_chain))
    dense = partial(family_chain, Family.DENSE, relu=True)
    residual = partial(residual_chain, None)
    found += [
        Comparison("pattern/add", "int8 residual blocks, add in int8", partial(residual_chain, U8S8), residual),
        Comparison("pattern/float_add", "int8 residual blocks, add in float", partial(residual_chain, U8S8, float_skip=True), residual),
        Comparison("pattern/s8s8", "int8 conv and ReLU, S8 activations", partial(dense, pattern=S8S8), dense),
        Comparison("pattern/centred", "int8 conv and ReLU, zero-point 128", partial(dense, pattern=U8S8_CENTRED), dense),
        Comparison("int4/linear", "Linear with 4-bit weights", int4_linear_chain, partial(family_chain, Family.LINEAR, relu=False)),
        Comparison("float16/dense", "float16 dense 3x3 conv", float16_chain, dense),
    ]
    return found


def channel_step(ratios: Mapping[int, float]) -> int:
    """Return the step of `STEPS` that explains best what float convolutions of several widths cost.

    Args:
        ratios: width -> latency against `FULL_WIDTH` channels.
    A step explains a width if it costs what the next multiple of the step should: the runtime pads channels to whole blocks, and
    what it cannot pad loses the blocked layout and costs more still. The smallest of equally good steps is returned.
    Source: ONNX Runtime, core/optimizer/nchwc_transformer.cc, TransformConv.
    """

    def error(step: int) -> float:
        expected = {width: step_macs(width, step) / step_macs(FULL_WIDTH, step) for width in ratios}
        return sum(math.log(ratio / expected[width]) ** 2 for width, ratio in ratios.items())

    return min(STEPS, key=error)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Writes models into a folder and measures them on a target."""

    target: Target
    folder: Path
    rng: np.random.Generator

    def compare(self, comparison: Comparison) -> Finding:
        """Return the ratio of the two models; raises LatencyError if the runtime cannot run one of them."""
        name = comparison.key.replace("/", "-")
        candidate, _ = self.file(name, comparison.candidate())
        reference, feed = self.file(f"{name}-reference", comparison.reference())
        # only the ratio is read, so any scale will do
        latency = self.target.measure(candidate, reference, baseline_ms=1.0, limit_ms=None, feed=feed, rng=self.rng)
        return Finding(comparison.key, comparison.name, comparison.against, latency.ratio, latency.ratio_ci)

    def baseline(self, name: str, model: onnx.ModelProto) -> Latency:
        """Return what a model takes, and its ratio to itself."""
        path, feed = self.file(name, model)
        return self.target.measure_baseline(path, feed=feed, rng=self.rng)

    def file(self, name: str, model: onnx.ModelProto) -> tuple[Path, dict[str, np.ndarray]]:
        """Write a model; return its file and a feed."""
        path = self.folder / f"{name}.onnx"
        onnx.save(model, path)
        return path, feed_for(model, self.rng)

    def saturates(self) -> bool:
        """Return whether int8 sums differ from exact ones by more than rounding."""
        extreme = extreme_conv()
        path, _ = self.file("extreme", extreme.model)
        (output,) = self.target.run(path, extreme.feed)
        # two roundings, of the sum and of its scale, can disagree by one step where the sum lies between two
        return bool(np.abs(output - extreme.expected).max() > 1.5 * extreme.step)

    def thread_findings(self, open_target: OpenTarget, cores: int) -> list[Finding]:
        """Return two and all threads against one, measured on several occasions one after the other."""
        model = family_chain(Family.DENSE, relu=True)
        found = []
        for threads in sorted({count for count in (2, cores) if 1 < count <= cores}):
            with closing(open_target(threads)) as many, closing(open_target(1)) as one:
                benches = [_Bench(target, self.folder, self.rng) for target in (many, one)]
                ratios = []
                for _ in range(THREAD_OCCASIONS):
                    fast_ms, slow_ms = (bench.baseline("threads", model).raw_p50_ms for bench in benches)
                    ratios.append(np.array([fast_ms / slow_ms]))
            found.append(Finding(f"threads/{threads}", f"{threads} threads", "1 thread", *median_interval(ratios, self.rng)))
        return found


def run_probe(target: Target, open_target: OpenTarget, rng: np.random.Generator, until: Deadline = NO_DEADLINE) -> ProbeReport:
    """Probe a target.

    Args:
        open_target: threads -> the same target with sessions of so many threads; asked for 1, 2 and all cores.
    Raises: LatencyError: the target cannot run a plain convolution. What it lacks kernels for is listed in `failed`. OutOfTimeError: the
        deadline passed before the last comparison: half a probe tells less than the processor's flags.
    """
    started = time.monotonic()
    env = target.environment()
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        bench = _Bench(target, Path(folder), rng)
        big = bench.baseline("big", big_chain())
        saturates = bench.saturates()
        widths = [bench.compare(comparison) for comparison in width_comparisons()]
        findings = list(widths)
        for comparison in quantised_comparisons():
            if until.passed:
                raise OutOfTimeError(f"a probe must end in time, but was at {comparison.name} after {time.monotonic() - started:.0f} s")
            try:
                findings.append(bench.compare(comparison))
            except LatencyError as error:
                failed[comparison.name] = error.message
        findings += bench.thread_findings(open_target, env.get("cores_logical") or 1)
    fp32_peak = big_chain_macs() / big.raw_p50_ms / 1e6
    big_int8 = next((finding.ratio for finding in findings if finding.key == "int8/dense/big"), None)
    return ProbeReport(
        fingerprint=probe_fingerprint(target.name, env),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - started, 1),
        channel_step=channel_step({width: finding.ratio for width, finding in zip(WIDTHS, widths, strict=True)}),
        reduce_range=saturates,
        noise_floor=(big.ratio_ci[1] - big.ratio_ci[0]) / 2,
        timer_ns=env.get("timer_ns"),
        fp32_peak_gmac_per_s=fp32_peak,
        int8_peak_gmac_per_s=None if big_int8 is None else fp32_peak / big_int8,
        findings=tuple(findings),
        failed=failed,
    )
