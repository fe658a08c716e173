"""The multiply-adds per second that large, well-formed layers reach on this host: what a layer could reach at best."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paretopress.errors import LatencyError
from paretopress.targets.local import SessionSettings, open_session, run_session
from paretopress.targets.sampling import collector_paused

SIZE, CHANNELS = 28, 128
SHORT, LONG = 2, 8
RUNS = 30
OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True, slots=True)
class Rates:
    """Giga multiply-adds per second of 3x3 convolutions: dense and depthwise, in fp32 and in fully fused int8."""

    dense_float: float
    dense_int8: float
    depthwise_float: float
    depthwise_int8: float

    def gmacs(self, *, int8: bool, depthwise: bool) -> float:
        """Return the rate of one kind of layer."""
        if depthwise:
            return self.depthwise_int8 if int8 else self.depthwise_float
        return self.dense_int8 if int8 else self.dense_float


def measure_rates(settings: SessionSettings) -> Rates:
    """Return the rates on this host, measured in about two seconds."""
    return Rates(*(peak_gmacs(settings, int8=int8, depthwise=depthwise) for depthwise in (False, True) for int8 in (False, True)))


def peak_gmacs(settings: SessionSettings, *, int8: bool = False, depthwise: bool = False) -> float:
    """Return giga multiply-adds per second of a chain of 3x3 convolutions, 128 channels at 28x28.

    It is the difference of a long and a short chain, so that what lies around them (reorders, Q and DQ) cancels; of each the fastest
    run counts, since a peak is what an undisturbed core reaches.
    Raises: LatencyError: a session failed, or the longer chain was not the slower one.
    """
    groups = CHANNELS if depthwise else 1
    feed = {"x": np.random.default_rng(0).standard_normal((1, CHANNELS, SIZE, SIZE), dtype=np.float32)}
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        sessions = []
        for length in (SHORT, LONG):
            path = Path(folder, f"chain{length}.onnx")
            onnx.save(conv_chain(length, groups, int8=int8), path)
            sessions.append(open_session(path, settings))
        times_ns: list[list[int]] = [[], []]
        with collector_paused():
            for _ in range(RUNS):
                for times, session in zip(times_ns, sessions, strict=True):
                    before = time.perf_counter_ns()
                    run_session(session, feed, "the chain that measures the peak")
                    times.append(time.perf_counter_ns() - before)
    short_ns, long_ns = map(min, times_ns)
    if long_ns <= short_ns:
        raise LatencyError(f"{LONG} convolutions must take longer than {SHORT}, but got {long_ns} and {short_ns} ns")
    macs = (LONG - SHORT) * SIZE * SIZE * CHANNELS * (CHANNELS // groups) * 9
    return macs / (long_ns - short_ns)


def conv_chain(length: int, groups: int, *, int8: bool) -> onnx.ModelProto:
    """Return a model of `length` 3x3 convolutions (1, 128, 28, 28) -> the same; in int8 each stands between Q and DQ that fuse."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (length, CHANNELS, CHANNELS // groups, 3, 3)).astype(np.int8)
    constants = {"scale": np.float32(0.05), "weight_scale": np.float32(1e-4), "middle": np.uint8(128), "zero": np.int8(0)}
    nodes, tensor = [], "x"
    if int8:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "middle"], ["q0"]))
        tensor = "q0"
    for i in range(length):
        weight = f"w{i}"
        constants[weight] = weights[i] if int8 else weights[i] * np.float32(1e-4)
        if int8:
            nodes.append(helper.make_node("DequantizeLinear", [tensor, "scale", "middle"], [f"x{i}"]))
            nodes.append(helper.make_node("DequantizeLinear", [weight, "weight_scale", "zero"], [f"{weight}_float"]))
            tensor, weight = f"x{i}", f"{weight}_float"
        nodes.append(helper.make_node("Conv", [tensor, weight], [f"c{i}"], name=f"conv{i}", pads=[1] * 4, group=groups))
        tensor = f"c{i}"
        if int8:
            nodes.append(helper.make_node("QuantizeLinear", [tensor, "scale", "middle"], [f"q{i + 1}"]))
            tensor = f"q{i + 1}"
    if int8:
        nodes.append(helper.make_node("DequantizeLinear", [tensor, "scale", "middle"], ["y"]))
    else:
        nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
