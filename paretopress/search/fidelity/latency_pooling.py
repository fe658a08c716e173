"""Pool the latencies of a file over several occasions of a run, with an interval that covers the machine's drift."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean
from typing import Self

from paretopress.core.outcome import Z95, Latency, small_sample_factor

# The ratio of an int8 to a float model moves between machine states by more than one occasion's interval shows: by a standard deviation
# of 6.3 % within six minutes on a shared two-core Xeon (benchmarks/latency_coverage.py), where the interval of an occasion alone contained
# the figure of twenty occasions in 51 % of cases. A run starts from it, as if it had been seen four times.
_PRIOR_DRIFT, _PRIOR_DEGREES = 0.06, 4


@dataclass(frozen=True, slots=True)
class Spread:
    """Sums of squares of one file's log ratios between occasions, their degrees of freedom, and the variances within occasions."""

    squares: float
    degrees: int
    within: float
    occasions: int

    @classmethod
    def of(cls, latencies: Sequence[Latency]) -> Self:
        """Return the spread of a file's latencies, one per occasion; files measured once teach nothing."""
        if len(latencies) < 2:
            return cls(0.0, 0, 0.0, 0)
        logs = [math.log(latency.ratio) for latency in latencies]
        centre = fmean(logs)
        within = sum(latency.sampling_error**2 for latency in latencies)
        return cls(sum((value - centre) ** 2 for value in logs), len(logs) - 1, within, len(logs))


def drift(measured: Iterable[Sequence[Latency]]) -> float:
    """Return the drift of files by their latencies, one per occasion, see `drift_of`."""
    return drift_of(map(Spread.of, measured))


def drift_of(spreads: Iterable[Spread]) -> float:
    """Return the standard deviation, between occasions, of the logarithm of a file's latency ratio.

    The variance within an occasion is taken off. With few repetitions a prior figure counts: see `_PRIOR_DRIFT`.
    Source: one-way analysis of variance with random effects; Kalibera and Jones, ISMM 2013, section 5.
    """
    squares, degrees, within, occasions = 0.0, 0, 0.0, 0
    for spread in spreads:
        squares += spread.squares
        degrees += spread.degrees
        within += spread.within
        occasions += spread.occasions
    excess = max(squares - degrees * within / occasions, 0.0) if occasions else 0.0
    return math.sqrt((_PRIOR_DEGREES * _PRIOR_DRIFT**2 + excess) / (_PRIOR_DEGREES + degrees))


def reserve(between: float, occasions: int) -> float:
    """Return the factor by which a latency has to be below a bound for its interval to be within after so many occasions.

    Args:
        between: standard deviation of the log ratio between occasions, from `drift`.
    """
    return math.exp(Z95 * between / math.sqrt(occasions))


def chance_within(latency: Latency, limit_ms: float, occasions: int) -> float:
    """Return the chance that the whole interval of a file that is measured on `occasions` in all will be within the limit.

    The interval shrinks with the root of the number of occasions, and what is known of its centre so far has the error of now.
    """
    error = max(math.log(latency.latency_ci_ms[1] / latency.latency_ms) / Z95, 1e-9)
    later = error * math.sqrt(latency.occasions / max(occasions, latency.occasions))
    room = math.log(limit_ms / latency.latency_ms) - Z95 * later
    return NormalDist(0.0, math.hypot(error, later)).cdf(room)


def pooled(latencies: Sequence[Latency], between: float) -> Latency:
    """Return one latency for a file measured on one or more occasions.

    Args:
        latencies: at least one, in the order of measuring; all on the same scale.
        between: standard deviation of the log ratio between occasions, from `drift`.
    Returns: the geometric mean of the ratios with a 95 % interval from both variances; the raw figures are the last occasion's. The
        interval of a bound in milliseconds holds the baseline's own as well, see `Bounds.on_scale`.
    Each occasion's error rests on few sessions. Its interval was widened for that; the widening is taken off before variances are added,
    and put on again for the degrees of freedom of the sum (Welch 1947, Satterthwaite 1946). The drift is taken as known.
    """
    first, last, count = latencies[0], latencies[-1], len(latencies)
    foreign = [latency.foreign_cores for latency in latencies if latency.foreign_cores is not None]
    scale_ms = first.latency_ms / first.ratio
    ratio = math.exp(fmean(math.log(latency.ratio) for latency in latencies))
    reach = _reach(between, latencies)
    low, high = ratio * math.exp(-reach), ratio * math.exp(reach)
    reach_ms = math.hypot(reach, max(latency.baseline_error for latency in latencies))
    return replace(
        last,
        latency_ms=ratio * scale_ms,
        latency_ci_ms=(ratio * scale_ms * math.exp(-reach_ms), ratio * scale_ms * math.exp(reach_ms)),
        ratio=ratio,
        ratio_ci=(low, high),
        blocks=sum(latency.blocks for latency in latencies),
        runs=sum(latency.runs for latency in latencies),
        duration_s=sum(latency.duration_s for latency in latencies),
        foreign_cores=max(foreign, default=None),
        throttled=any(latency.throttled for latency in latencies),
        alike=all(latency.alike for latency in latencies),
        occasions=count,
        sessions=0,
    )


def _reach(between: float, latencies: Sequence[Latency]) -> float:
    """Return half the width, in the logarithm, of the 95 % interval of the mean of several occasions."""
    count = len(latencies)
    drift_part, sampling_part = between**2 / count, sum(latency.sampling_error**2 for latency in latencies) / count**2
    degrees = sum(latency.sessions - 1 for latency in latencies if latency.sessions > 1)
    total = drift_part + sampling_part
    factor = small_sample_factor(1.0 + degrees * (total / sampling_part) ** 2, 0.95) if degrees and sampling_part > 0.0 else 1.0
    return Z95 * factor * math.sqrt(total)
