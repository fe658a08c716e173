"""Statistics of timed blocks: the ratio of medians and its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paretopress.core.outcome import small_sample_factor
from paretopress.errors import LatencyError
from paretopress.targets.sampling import PairedSamples, Times

Interval = tuple[float, float]


def _median(times: Times) -> float:
    if times.size == 0 or not bool(np.all(np.isfinite(times) & (times > 0))):
        bad = times[~(np.isfinite(times) & (times > 0))]
        raise LatencyError(f"every timed run must take a positive number of nanoseconds, but got {bad[:3].tolist()} of {times.size} runs")
    return float(np.median(times))


def block_medians(samples: PairedSamples) -> tuple[list[Times], list[Times]]:
    """Return the block medians of (candidate, reference), each a list with one (blocks,) array per session, nanoseconds.

    Raises: LatencyError: a time is NaN, infinite, zero or negative, or no block was timed.
    """
    timed = [blocks for blocks in samples.sessions if blocks]
    if not timed:
        raise LatencyError("at least one block must be timed, but got blocks=0")
    candidate = [np.array([_median(block.candidate) for block in blocks]) for blocks in timed]
    reference = [np.array([_median(block.reference) for block in blocks]) for blocks in timed]
    return candidate, reference


def _row_medians(values: Times, counts: npt.NDArray[np.int64]) -> Times:
    """Return the median of the first `counts[i]` of each sorted row; what lies beyond is +inf."""
    ordered = np.sort(values, axis=1)
    rows = np.arange(len(ordered))
    return (ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2.0


def median_interval(sessions: Sequence[Times], rng: np.random.Generator, level: float = 0.95, draws: int = 1000) -> tuple[float, Interval]:
    """Return the median of all values and its percentile interval from a hierarchical bootstrap.

    Args:
        sessions: one (blocks,) array per session, at least one block each; the lengths may differ.
        level: coverage, 0.95 for a 95 % interval.
    Sessions are drawn with replacement, then blocks within each drawn session: blocks of one session are not independent. With a
    handful of sessions such an interval is too narrow (of 50 ratios of an int8 file to itself, 4 sessions each, 84 % contained 1), so
    both ends are moved out, in the logarithm, by `small_sample_factor`.
    Sources: Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013 (resampling at each level of repetition);
    Hesterberg 2015, "What teachers should know about the bootstrap", on expanded intervals; his second factor, sqrt(n / (n - 1)), is
    left out, because resampling blocks too counts their noise twice.
    """
    lengths = np.array([len(values) for values in sessions])
    padded = np.full((len(sessions), int(lengths.max())), np.inf)
    for row, values in zip(padded, sessions, strict=True):
        row[: len(values)] = values
    session = rng.integers(len(sessions), size=(draws, len(sessions)))
    drawn_lengths = lengths[session][:, :, None]
    block = np.floor(rng.random((*session.shape, padded.shape[1])) * drawn_lengths).astype(np.int64)
    values = padded[session[:, :, None], block]
    values[np.broadcast_to(np.arange(padded.shape[1]) >= drawn_lengths, values.shape)] = np.inf
    medians = _row_medians(values.reshape(draws, -1), lengths[session].sum(axis=1))
    low, high = np.quantile(medians, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    centre = float(np.median(np.concatenate(list(sessions))))
    factor = small_sample_factor(len(sessions), level)
    return centre, (centre * min(float(low) / centre, 1.0) ** factor, centre * max(float(high) / centre, 1.0) ** factor)


def ratio_interval(samples: PairedSamples, rng: np.random.Generator, level: float = 0.95, draws: int = 1000) -> tuple[float, Interval]:
    """Return the latency ratio candidate / reference and its interval (low, high).

    The ratio is the median over blocks of block median candidate / block median reference: a drift of the machine hits both
    halves of a block and cancels.
    Raises: LatencyError: a time is NaN, infinite, zero or negative, or no block was timed.
    """
    candidate, reference = block_medians(samples)
    ratios = [c / r for c, r in zip(candidate, reference, strict=True)]
    return median_interval(ratios, rng, level, draws)
