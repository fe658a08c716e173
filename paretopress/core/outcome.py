"""Measured figures of a candidate, and the budget: plain values with units in their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from statistics import NormalDist
from typing import Any

from paretopress.errors import BudgetError, LatencyError, RunError

# above this many cores' worth of time taken by others a measurement counts as disturbed
DISTURBED_CORES = 0.1
# the quantile of the normal distribution that a 95 % interval reaches to
Z95 = 1.96
# significant digits of a score below 1
_DIGITS = 4


class Rung(IntEnum):
    """Fidelity of an evaluation."""

    COSTS = 0
    SHORT = 1
    LONG = 2
    FINAL = 3


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score is called and measured in. Scores are compared as if higher were better: where lower is, the negative is kept."""

    name: str = "top-1"
    unit: str = "%"
    higher_is_better: bool = True

    def value(self, score: float) -> float:
        """Return the metric of a score."""
        return score if self.higher_is_better else -score

    def shown(self, score: float) -> str:
        """Return the metric of a score with its unit: "86.01 %", "3.20 mm", "0.8601"."""
        return f"{self.value(score):.{decimals_for(score)}f} {self.unit}".rstrip()

    def difference(self, points: float, like: float) -> str:
        """Return a difference of scores with its unit: "0.52 points", "3.20 mm", "0.0120"; to the decimals of a score `like` it."""
        return f"{points:.{decimals_for(like)}f} {'points' if self.unit == '%' else self.unit}".rstrip()


def decimals_for(score: float) -> int:
    """Return how many decimals tell scores of this size apart: two from 1 upwards, below it as many as show four digits."""
    size = abs(score)
    return 2 if size >= 1.0 or size < 1e-12 else _DIGITS - 1 - math.floor(math.log10(size))


def drop_between(baseline: float, score: float) -> float:
    """Return by how much a score is below the baseline's, to twelve digits of the larger: 0.9 - 0.88 is 0.02, within a bound of that."""
    size = max(abs(baseline), abs(score))
    return round(baseline - score, 12 - math.ceil(math.log10(size))) if math.isfinite(size) and size > 0.0 else baseline - score


def small_sample_factor(count: float, level: float) -> float:
    """Return the quantile of Student's t for `count` values over that of the normal; 1 for a single value, of which nothing is known.

    Args:
        count: the degrees of freedom plus 1; need not be whole.
    Source: Abramowitz and Stegun 1964, 26.7.5, for the quantile of t (1 % low at 3 degrees of freedom).
    """
    if count < 2 or math.isinf(count):
        return 1.0
    z, nu = NormalDist().inv_cdf((1.0 + level) / 2.0), count - 1
    terms = (
        z,
        (z**3 + z) / (4.0 * nu),
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * nu**2),
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / (384.0 * nu**3),
    )
    return sum(terms) / z


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one ONNX file, measured in turns with the baseline file in the same process.

    Attributes:
        latency_ms: the p50 of one batch on the baseline's scale: `ratio` times the run's baseline p50.
        latency_ci_ms: 95 % interval of `latency_ms` (low, high).
        ratio, ratio_ci: candidate / baseline, of the p50s of interleaved blocks.
        raw_p50_ms, raw_p90_ms: as the clock showed them, in the machine state of that minute.
        baseline_raw_p50_ms: the baseline beside it, in the same minute.
        blocks, runs: interleaved blocks of each model, and timed runs of each model in all.
        foreign_cores: cores' worth of CPU time that others took meanwhile, None where the system does not tell.
        throttled: whether heat slowed the first core meanwhile.
        alike: whether it was not this file that was measured, but one with the same operators and shapes, and other weights.
        occasions: how often in the run it was measured; above 1 the intervals cover the machine's drift between them.
        sessions: fresh sessions that the interval of one occasion rests on, which widen it by their `small_sample_factor`; 0 where that
            is not known, and the interval is taken to be a normal one.
        baseline_error: half the width, in the logarithm, of the 95 % interval of the run's baseline p50, where `latency_ci_ms` holds
            it too: under a bound in milliseconds; 0 elsewhere, see `Bounds.on_scale`.
    Why a scale: the raw p50 of one unchanged file moves by 20-40 % within minutes on shared machines, the ratio by about 1 %.
    Raises: LatencyError: a figure is not a finite number above 0, or an interval is upside down.
    """

    latency_ms: float
    latency_ci_ms: tuple[float, float]
    ratio: float
    ratio_ci: tuple[float, float]
    raw_p50_ms: float
    raw_p90_ms: float
    baseline_raw_p50_ms: float
    blocks: int
    runs: int
    duration_s: float
    foreign_cores: float | None = None
    throttled: bool = False
    alike: bool = False
    occasions: int = 1
    sessions: int = 0
    baseline_error: float = 0.0

    @property
    def sampling_error(self) -> float:
        """The standard error of the logarithm of one occasion's ratio: what its interval shows, without the factor for few sessions."""
        low, high = self.ratio_ci
        return math.log(high / low) / (2.0 * Z95 * small_sample_factor(self.sessions, 0.95))

    def __post_init__(self) -> None:
        if not _is_finite(self.baseline_error) or self.baseline_error < 0.0:
            raise LatencyError(f"an error must be finite and 0 or above, but got baseline_error={self.baseline_error!r}")
        for name in ("latency_ms", "latency_ci_ms", "ratio", "ratio_ci", "raw_p50_ms", "raw_p90_ms", "baseline_raw_p50_ms"):
            value = getattr(self, name)
            figures = value if isinstance(value, tuple) else (value,)
            if not all(_is_finite(figure) and figure > 0 for figure in figures) or list(figures) != sorted(figures):
                raise LatencyError(f"a latency must be finite and above 0, the low end of an interval first, but got {name}={value!r}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Latency:
        """Return what `to_json` wrote."""
        fields = dict(value)
        for key in ("latency_ci_ms", "ratio_ci"):
            low, high = fields[key]
            fields[key] = (low, high)
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All figures of one evaluated candidate.

    Attributes:
        val_accuracy: the score of the ONNX file on the validation split; where `rejected` is set, that of the untrained
            candidate on the first images of the split.
        macs: multiply-adds of one input by fvcore; `uncounted` are the operators it could not count.
        onnx_path: relative to the run folder; `onnx_sha256` of its bytes, which are those that were measured unless `latency.alike`.
        rejected: why no training took place, or "".
        val_error: standard error of the drop of `val_accuracy` against the baseline's, paired over the validation items; of the baseline
            that of its score alone. None where it is not known.
        stages_s: seconds by stage.
        notes: choices of the plan that had no effect, with the reason.
        figures: what further evaluators measured of the file, by their names; see `evaluators.registry`.
    Raises: RunError: a score is not a finite number, as a metric returns where it divides by what a collapsed candidate never predicts.
    """

    rung: Rung
    val_accuracy: float
    macs: int
    params: int
    latency: Latency
    size_bytes: int
    onnx_path: str
    onnx_sha256: str
    rejected: str = ""
    test_accuracy: float | None = None
    stages_s: Mapping[str, float] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    val_error: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("val_accuracy", "test_accuracy", "val_error"):
            score = getattr(self, name)
            if not _is_finite(score) and not (score is None and name != "val_accuracy"):
                raise RunError(f"a score must be a finite number, but got {name}={score!r}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["rung"] = int(self.rung)
        fields["latency"] = self.latency.to_json()
        fields["stages_s"] = dict(self.stages_s)
        fields["figures"] = dict(self.figures)
        return fields

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Return what `to_json` wrote."""
        fields = dict(value)
        fields["rung"] = Rung(fields["rung"])
        fields["latency"] = Latency.from_json(fields["latency"])
        for key in ("uncounted", "notes"):
            fields[key] = tuple(fields[key])
        return cls(**fields)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(name: str, value: float | None) -> None:
    if value is None:
        return
    if not _is_finite(value) or value <= 0:
        raise BudgetError(f"{name} must be a positive number, but got {name}={value!r}", "Give it in the unit its name ends in.")


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard upper bounds. Exactly one of `latency_ms` and `speedup` is set; `speedup` X means baseline latency / X.

    `max_drop` is what the score may lose against the baseline, in the metric's unit; `size_bytes` bounds the ONNX file.
    """

    latency_ms: float | None = None
    speedup: float | None = None
    max_drop: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            _positive(name, getattr(self, name))
        if (self.latency_ms is None) == (self.speedup is None):
            raise BudgetError(
                f"exactly one of latency_ms and speedup must be given, but got latency_ms={self.latency_ms}, speedup={self.speedup}"
            )

    def limit_ms(self, baseline_ms: float) -> float:
        """Return the bound on latency in milliseconds, for a baseline that takes `baseline_ms`."""
        if self.latency_ms is not None:
            return self.latency_ms
        assert self.speedup is not None
        return baseline_ms / self.speedup


def drop_interval(drop: float, error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a drop, by its standard error; None where that is not known."""
    return None if error is None else (drop - Z95 * error, drop + Z95 * error)


@dataclass(frozen=True, slots=True)
class Miss:
    """One bound of the budget that a candidate misses.

    Attributes:
        bound: the budget's field: "latency_ms", "size_bytes" or "max_drop".
        value: what is compared: the upper end of the latency interval in ms, the file's bytes, or the drop in the metric's unit.
        limit: the bound itself, in the same unit.
    """

    bound: str
    value: float
    limit: float

    @property
    def share(self) -> float:
        """By how much the bound is missed, as a share of it."""
        return self.value / self.limit - 1.0

    def describe(self, metric: Metric) -> str:
        """Return the miss in words."""
        if self.bound == "latency_ms":
            return f"its latency interval reaches {self.value:.3f} ms, {100.0 * self.share:.1f} % over the {self.limit:.3f} ms allowed"
        if self.bound == "size_bytes":
            return f"its file takes {self.value:.0f} bytes, {100.0 * self.share:.1f} % over the {self.limit:.0f} allowed"
        lost = f"{self.value:.3g} {'points' if metric.unit == '%' else metric.unit}".rstrip()
        return f"it loses {lost}, {self.value - self.limit:.2g} more than the {self.limit:g} allowed"


def missed(figures: Mapping[str, tuple[float, float | None]]) -> tuple[Miss, ...]:
    """Return the bounds that are missed.

    Args:
        figures: bound -> (what is compared, the limit or None where there is none), see `Miss`. What is not a number misses its bound.
    """
    pairs = ((name, float(value), limit) for name, (value, limit) in figures.items())
    return tuple(Miss(name, value, float(limit)) for name, value, limit in pairs if limit is not None and not value <= limit)
