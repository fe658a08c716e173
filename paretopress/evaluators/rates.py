"""Peak rates of this host: multiply-adds per second of large, well-shaped layers."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from paretopress.errors import LatencyError
from paretopress.runtimes.onnx_runtime import open_session, run_session
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.probe import probe_models
from paretopress.targets.sampling import collector_paused

SIZE, CHANNELS = 28, 128
SHORT, LONG = 2, 8
RUNS = 30


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
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        sessions = []
        for length in (SHORT, LONG):
            path, model = Path(folder, f"chain{length}.onnx"), conv_chain(length, groups, int8=int8)
            onnx.save(model, path)
            sessions.append(open_session(path, settings))
        feed = probe_models.feed_for(model, np.random.default_rng(0))  # both chains read the same input
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
    layer = probe_models.Conv(CHANNELS, depthwise=groups > 1, relu=False, pattern=probe_models.U8S8 if int8 else None)
    return probe_models.conv_chain(CHANNELS, [layer] * length, SIZE)
