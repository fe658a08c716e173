"""Latencies measured on several occasions of a run: pooled, with an interval that covers the machine's drift between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from paretopress.measurement import Latency

# The ratio of an int8 to a float model moves between machine states by more than one occasion's interval shows: by a standard deviation
# of 6.3 % within six minutes on a shared two-core Xeon (benchmarks/latency_coverage.py), where the interval of an occasion alone contained
# the figure of twenty occasions in 51 % of cases. A run starts from it, as if it had been seen four times.
_PRIOR_DRIFT, _PRIOR_DEGREES = 0.06, 4
_Z95 = 1.96


def _sampling_error(latency: Latency) -> float:
    low, high = latency.ratio_ci
    return math.log(high / low) / (2.0 * _Z95)


def drift(measured: Iterable[Sequence[Latency]]) -> float:
    """Return the standard deviation, between occasions, of the logarithm of a file's latency ratio.

    Args:
        measured: for each file its latencies, one per occasion. Files measured once teach nothing.
    The variance within an occasion is taken off. With few repetitions a prior figure counts: see `_PRIOR_DRIFT`.
    Source: one-way analysis of variance with random effects; Kalibera and Jones, ISMM 2013, section 5.
    """
    squares, degrees, within = 0.0, 0, []
    for latencies in measured:
        if len(latencies) < 2:
            continue
        logs = [math.log(latency.ratio) for latency in latencies]
        centre = fmean(logs)
        squares += sum((value - centre) ** 2 for value in logs)
        degrees += len(logs) - 1
        within += [_sampling_error(latency) ** 2 for latency in latencies]
    excess = max(squares - degrees * fmean(within), 0.0) if within else 0.0
    return math.sqrt((_PRIOR_DEGREES * _PRIOR_DRIFT**2 + excess) / (_PRIOR_DEGREES + degrees))


def pooled(latencies: Sequence[Latency], between: float) -> Latency:
    """Return one latency for a file measured on one or more occasions.

    Args:
        latencies: at least one, in the order of measuring; all on the same scale.
        between: standard deviation of the log ratio between occasions, from `drift`.
    Returns: the geometric mean of the ratios with a 95 % interval from both variances; the raw figures are the last occasion's.
    """
    first, last, count = latencies[0], latencies[-1], len(latencies)
    foreign = [latency.foreign_cores for latency in latencies if latency.foreign_cores is not None]
    scale_ms = first.latency_ms / first.ratio
    ratio = math.exp(fmean(math.log(latency.ratio) for latency in latencies))
    error = math.sqrt((between**2 + fmean(_sampling_error(latency) ** 2 for latency in latencies)) / count)
    low, high = ratio * math.exp(-_Z95 * error), ratio * math.exp(_Z95 * error)
    return replace(
        last,
        latency_ms=ratio * scale_ms,
        latency_ci_ms=(low * scale_ms, high * scale_ms),
        ratio=ratio,
        ratio_ci=(low, high),
        blocks=sum(latency.blocks for latency in latencies),
        runs=sum(latency.runs for latency in latencies),
        duration_s=sum(latency.duration_s for latency in latencies),
        foreign_cores=max(foreign, default=None),
        throttled=any(latency.throttled for latency in latencies),
        occasions=count,
    )
