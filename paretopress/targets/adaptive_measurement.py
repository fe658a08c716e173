"""Adaptive measurement: rounds until the interval is narrow and the verdict on the budget clear, pooled as a `Latency`."""

from __future__ import annotations

import math

import numpy as np

from paretopress.core.outcome import Latency
from paretopress.errors import LatencyError
from paretopress.targets.sampling import Clock, OpenPair, PairedSamples, SamplingRules, sample_pair
from paretopress.targets.statistics import block_medians, median_interval, ratio_interval

NS_PER_MS = 1e6
# half of the interval, as a share of the ratio: 3 % is what the noise of a shared machine allows within two seconds
NARROW = 0.03


def summarise(samples: PairedSamples, *, baseline_ms: float | None, rng: np.random.Generator, duration_s: float) -> Latency:
    """Return the latency that the samples show.

    With `baseline_ms` None the candidate is the baseline: its latency is its raw p50, with the interval of that p50, and its
    ratio is what the file measured against itself (near 1).
    Raises: LatencyError: a time or `baseline_ms` is not a positive number.
    """
    if baseline_ms is not None and not (math.isfinite(baseline_ms) and baseline_ms > 0):
        raise LatencyError(f"baseline_ms must be a positive number, but got baseline_ms={baseline_ms}")
    ratio, (low, high) = ratio_interval(samples, rng)
    candidate, reference = block_medians(samples)
    raw_p50, (raw_low, raw_high) = median_interval(candidate, rng)
    every_run = np.concatenate([block.candidate for blocks in samples.sessions for block in blocks])
    latency_ms, interval_ms = raw_p50 / NS_PER_MS, (raw_low / NS_PER_MS, raw_high / NS_PER_MS)
    if baseline_ms is not None:
        latency_ms, interval_ms = ratio * baseline_ms, (low * baseline_ms, high * baseline_ms)
    return Latency(
        latency_ms=latency_ms,
        latency_ci_ms=interval_ms,
        ratio=ratio,
        ratio_ci=(low, high),
        raw_p50_ms=raw_p50 / NS_PER_MS,
        raw_p90_ms=float(np.quantile(every_run, 0.9)) / NS_PER_MS,
        baseline_raw_p50_ms=float(np.median(np.concatenate(reference))) / NS_PER_MS,
        blocks=samples.blocks,
        runs=samples.runs,
        duration_s=duration_s,
        sessions=sum(bool(blocks) for blocks in samples.sessions),
    )


def straddles(latency: Latency, limit_ms: float | None) -> bool:
    """Return whether the limit lies inside the interval, so that the samples cannot tell which side the candidate is on."""
    if limit_ms is None:
        return False
    low, high = latency.latency_ci_ms
    return low <= limit_ms < high


def settled(latency: Latency, limit_ms: float | None) -> bool:
    """Return whether measuring may stop: clearly over the limit, or not astride it and with a narrow interval."""
    if limit_ms is not None and latency.latency_ci_ms[0] > limit_ms:
        return True
    low, high = latency.ratio_ci
    return not straddles(latency, limit_ms) and (high - low) / 2.0 <= NARROW * latency.ratio


def measure_adaptively(
    open_pair: OpenPair,
    *,
    baseline_ms: float | None,
    limit_ms: float | None,
    rng: np.random.Generator,
    clock: Clock,
    rules: SamplingRules,
    max_rounds: int = 3,
) -> Latency:
    """Return the pooled latency of as many rounds as it takes to settle it, at most `max_rounds`; see `settled`.

    Raises: LatencyError: a session failed, or fewer than 5 blocks of a round finished.
    """
    start = clock()
    samples = sample_pair(open_pair, rng=rng, clock=clock, rules=rules)
    latency = summarise(samples, baseline_ms=baseline_ms, rng=rng, duration_s=(clock() - start) / 1e9)
    for _ in range(max_rounds - 1):
        if settled(latency, limit_ms) or clock() - start > rules.rounds_max_ns:
            break
        samples = samples.pooled(sample_pair(open_pair, rng=rng, clock=clock, rules=rules))
        latency = summarise(samples, baseline_ms=baseline_ms, rng=rng, duration_s=(clock() - start) / 1e9)
    return latency
