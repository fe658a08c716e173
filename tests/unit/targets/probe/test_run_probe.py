"""The probe on synthetic machines, whose costs are read off the graphs by simple rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from paretopress.core.arrays import Feed
from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError
from paretopress.targets.probe.probe_report import ProbeReport
from paretopress.targets.probe.run_probe import channel_step, quantised_comparisons, run_probe, width_comparisons


def latency(ratio: float, raw_ms: float) -> Latency:
    return Latency(ratio, (ratio, ratio), ratio, (0.99 * ratio, 1.01 * ratio), raw_ms, raw_ms, raw_ms, 16, 100, 0.0)


@dataclass
class Machine:
    """A processor that takes 1 ns per multiply-add of float, counted at one position of the image.

    Attributes:
        step: a convolution is padded to multiples of it; one whose channels are no multiple of 4 takes 1.5 times its MACs.
        int8, int8_depthwise: what an int8 multiply-add takes; an int8 convolution whose output is not quantised at once takes 1.5.
        int8_overhead: nanoseconds of every int8 convolution. requantise: nanoseconds of a Q that reads a ReLU.
        lacks: operators that it has no kernel for.
    """

    step: int = 16
    int8: float = 0.25
    int8_depthwise: float = 0.5
    int4: float = 0.5
    int8_overhead: float = 0.0
    requantise: float = 0.0
    saturates: bool = False
    cores: int = 2
    threads: int = 1
    lacks: frozenset[str] = frozenset()
    name: str = "synthetic"
    opened: list[int] = field(default_factory=list)

    def at(self, threads: int) -> Machine:
        self.opened.append(threads)
        return replace(self, threads=threads)

    def close(self) -> None:
        self.opened.remove(self.threads)

    def environment(self) -> dict[str, Any]:
        return {
            "cpu": "Synthetic",
            "machine": "x86_64",
            "isa": ["avx2"],
            "cores_logical": self.cores,
            "threads": self.threads,
            "timer_ns": 40,
            "versions": {"onnxruntime": "1.31.0"},
        }

    def run(self, path: Path, feed: Feed) -> list[npt.NDArray[Any]]:
        model = onnx.load(path)
        model.opset_import[0].version = 19  # the first whose Q/DQ the reference knows; nothing in them has changed that matters here
        (output,) = ReferenceEvaluator(model).run(None, dict(feed))
        return [output / 2 if self.saturates else output]

    def measure(self, candidate: Path, reference: Path, *, feed: Feed, **_: Any) -> Latency:
        for path in (candidate, reference):
            shape = [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
            assert [list(array.shape) for array in feed.values()] == [shape]
        return latency(self.cost_ns(candidate) / self.cost_ns(reference), self.cost_ns(candidate) / 1e6)

    def measure_baseline(self, path: Path, **_: Any) -> Latency:
        return latency(1.0, self.cost_ns(path) / self.threads / 1e6)

    def cost_ns(self, path: Path) -> float:
        graph = onnx.load(path).graph
        if missing := {node.op_type for node in graph.node} & self.lacks:
            raise LatencyError(f"no kernel for {missing.pop()}")
        made = {node.output[0]: node for node in graph.node}
        readers = {name: node for node in graph.node for name in node.input}
        constants = {tensor.name: tensor for tensor in graph.initializer}
        cost = 0.0
        for node in graph.node:
            if node.op_type == "MatMulNBits":
                attributes = {a.name: a.i for a in node.attribute}
                cost += attributes["K"] * attributes["N"] * self.int4
            if node.op_type == "QuantizeLinear" and node.input[0] in made and made[node.input[0]].op_type == "Relu":
                cost += self.requantise
            if node.op_type in ("Conv", "Gemm"):
                source = made.get(node.input[1])
                weight = constants[source.input[0] if source is not None else node.input[1]]
                reader = readers.get(node.output[0])
                is_fused = node.op_type == "Gemm" or (reader is not None and reader.op_type == "QuantizeLinear")
                cost += self._layer_ns(list(weight.dims), weight.data_type, is_fused=is_fused)
        return cost

    def _layer_ns(self, dims: list[int], dtype: int, *, is_fused: bool) -> float:
        outputs, inputs, taps = dims[0], dims[1], math.prod(dims[2:])
        if outputs % 4:
            return 1.5 * outputs * inputs * taps
        padded = math.ceil(outputs / self.step) * self.step
        macs = padded * (math.ceil(inputs / self.step) * self.step if inputs >= self.step else inputs) * taps
        if dtype == onnx.TensorProto.FLOAT16:
            return 1.4 * macs
        if dtype != onnx.TensorProto.INT8:
            return macs
        if not is_fused:
            return 1.5 * macs
        return macs * (self.int8_depthwise if inputs == 1 else self.int8) + self.int8_overhead


def probed(machine: Machine) -> ProbeReport:
    return run_probe(machine, machine.at, np.random.default_rng(0))


def ratio(report: ProbeReport, key: str) -> float:
    finding = report.finding(key)
    assert finding is not None
    return finding.ratio


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({63: 1.54, 60: 1.0, 56: 1.0, 48: 0.59}, 16),
        ({63: 1.54, 60: 1.4, 56: 1.2, 48: 0.59}, 16),  # a runtime that drops the layout where it could have padded
        ({63: 1.5, 60: 1.0, 56: 0.78, 48: 0.58}, 8),
        ({63: 1.5, 60: 0.89, 56: 0.78, 48: 0.58}, 4),
        ({63: 1.5, 60: 1.01, 56: 0.99, 48: 1.0}, 32),
        ({63: 0.97, 60: 0.88, 56: 0.77, 48: 0.57}, 1),
    ],
)
def test_channel_step_is_the_block_that_explains_the_costs(ratios: dict[int, float], expected: int) -> None:
    assert channel_step(ratios) == expected


@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_run_probe_finds_the_channel_step_when_the_machine_pads_to_it(step: int) -> None:
    report = probed(Machine(step=step))
    assert report.channel_step == report.capabilities().channel_step == step


def test_run_probe_finds_what_int8_gains_when_the_machine_has_kernels() -> None:
    report = probed(Machine())
    for key in ("dense", "dense/relu", "pointwise", "pointwise/relu", "linear", "linear/relu", "dense/big"):
        assert ratio(report, f"int8/{key}") == pytest.approx(0.25)
    assert ratio(report, "int8/depthwise/relu") == pytest.approx(0.5)
    assert ratio(report, "int4/linear") == pytest.approx(0.5)
    assert ratio(report, "float16/dense") == pytest.approx(1.4)
    assert ratio(report, "pattern/add") == pytest.approx(0.25)
    assert ratio(report, "pattern/float_add") == pytest.approx((1 + 6 * 0.25) / 7)  # the first convolution is float
    capabilities = report.capabilities()
    assert (capabilities.slow_int8, capabilities.min_int8_channels, capabilities.slow_int4) == ({}, 1, "")


@pytest.mark.parametrize("key", ["s8s8", "centred"])
def test_run_probe_finds_patterns_that_do_not_fuse_when_the_relu_remains(key: str) -> None:
    assert ratio(probed(Machine()), f"pattern/{key}") == pytest.approx(1.5)


def test_run_probe_leaves_depthwise_in_float_when_int8_is_slower() -> None:
    report = probed(Machine(int8_depthwise=1.6))
    # a block of the bottleneck: 2 * 32 * 192 pointwise MACs at 0.25 and 192 * 9 depthwise at 1.6 or 1
    inside = (2 * 32 * 192 * 0.25 + 192 * 9 * 1.6) / (2 * 32 * 192 * 0.25 + 192 * 9)
    assert ratio(report, "int8/depthwise/inside") == pytest.approx(inside)
    assert report.capabilities().slow_int8 == {"depthwise": "1.22x slower than float"}


def test_run_probe_offers_int8_depthwise_when_leaving_int8_costs_more() -> None:
    report = probed(Machine(int8_depthwise=1.6, requantise=10_000.0))
    assert ratio(report, "int8/depthwise/relu") == pytest.approx(1.6)
    assert report.capabilities().slow_int8 == {}


def test_run_probe_finds_the_narrowest_int8_conv_that_pays() -> None:
    # 16 channels take 16 * 16 * 9 = 2304 ns in float, and a quarter of it plus 2304 in int8; 8 inputs are half of that
    report = probed(Machine(int8_overhead=2304.0))
    assert [ratio(report, f"int8_width/{width}") for width in (8, 16, 32, 64)] == pytest.approx([2.25, 1.25, 0.5, 0.3125])
    assert report.capabilities().min_int8_channels == 32


@pytest.mark.parametrize("saturates", [False, True])
def test_run_probe_asks_for_7_bits_when_sums_saturate(saturates: bool) -> None:
    report = probed(Machine(saturates=saturates))
    assert report.reduce_range is report.capabilities().reduce_range is saturates


def test_run_probe_reports_peak_and_noise_of_a_made_up_machine() -> None:
    report = probed(Machine())
    # 28 * 28 positions in the time of one
    assert report.fp32_peak_gmac_per_s == pytest.approx(784.0)
    assert report.int8_peak_gmac_per_s == pytest.approx(784.0 * 4)
    assert report.noise_floor == pytest.approx(0.01)
    assert report.timer_ns == 40


@pytest.mark.parametrize(("cores", "ratios"), [(1, {}), (2, {2: 0.5}), (8, {2: 0.5, 8: 0.125})])
def test_run_probe_compares_threads_when_there_are_cores(cores: int, ratios: dict[int, float]) -> None:
    machine = Machine(cores=cores)
    report = probed(machine)
    found = {int(f.key.removeprefix("threads/")): f.ratio for f in report.findings if f.key.startswith("threads/")}
    assert found == pytest.approx(ratios)
    assert machine.opened == []  # each was closed


def test_run_probe_lists_what_failed_when_the_runtime_has_no_kernel() -> None:
    report = probed(Machine(lacks=frozenset({"MatMulNBits"})))
    assert report.failed == {"Linear with 4-bit weights": "no kernel for MatMulNBits"}
    assert report.capabilities().weight_only_bits == ()


def test_run_probe_raises_when_a_float_convolution_does_not_run() -> None:
    with pytest.raises(LatencyError, match="no kernel for Conv"):
        probed(Machine(lacks=frozenset({"Conv"})))


def test_comparisons_have_distinct_keys_and_names_when_listed() -> None:
    comparisons = [*width_comparisons(), *quantised_comparisons()]
    assert len({c.key for c in comparisons}) == len({c.name for c in comparisons}) == len(comparisons)
