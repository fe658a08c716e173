"""Decision variables: a choice among ordered values, or a range of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from paretopress.errors import ConfigError

Value = float | int | str | None


class Variable(Protocol):
    """One parameter of a study; `default` leaves the model as it is."""

    @property
    def name(self) -> str:
        """The parameter's name."""
        ...

    @property
    def default(self) -> Value:
        """The value that leaves the model as it is."""
        ...

    def check(self, value: Value) -> None:
        """Raise ConfigError if the parameter cannot take `value`."""

    def distribution(self) -> BaseDistribution:
        """Return the Optuna distribution of the parameter."""

    def sample(self, rng: np.random.Generator) -> Value:
        """Return a uniformly drawn value."""

    def neighbour(self, value: Value, rng: np.random.Generator) -> Value:
        """Return another value near `value` (the same only where there is no other)."""

    def features(self, value: Value) -> list[float]:
        """Return numbers for a linear model: one-hot without the default, or the value scaled to [0, 1]."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, ordered from least to most compressed; the first is the default."""

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(self.values) or not self.values:
            raise ConfigError(f"a choice must have distinct values, but got {self.values} at {self.name}")

    @property
    def default(self) -> Value:
        """The first value."""
        return self.values[0]

    def check(self, value: Value) -> None:
        """Raise ConfigError if `value` is none of the values."""
        if value not in self.values:
            raise ConfigError(f"{self.name} must be one of {self.values}, but got {value}")

    def distribution(self) -> BaseDistribution:
        """Return a CategoricalDistribution over the values."""
        return CategoricalDistribution(self.values)

    def sample(self, rng: np.random.Generator) -> Value:
        """Return any of the values with equal probability."""
        return self.values[int(rng.integers(len(self.values)))]

    def neighbour(self, value: Value, rng: np.random.Generator) -> Value:
        """Return the value one step up or down, or, one time in four, any other value."""
        at = self.values.index(value)
        others = [i for i in range(len(self.values)) if i != at]
        near = [i for i in others if abs(i - at) == 1]
        pool = others if rng.random() < 0.25 else near
        return self.values[int(rng.choice(pool))] if pool else value

    def features(self, value: Value) -> list[float]:
        """Return a one-hot code of the values after the first."""
        return [float(value == other) for other in self.values[1:]]


@dataclass(frozen=True, slots=True)
class Range:
    """A number between `low` and `high`, both included."""

    name: str
    low: float
    high: float
    default: float

    def __post_init__(self) -> None:
        if not self.low <= self.default <= self.high:
            raise ConfigError(f"low <= default <= high must hold, but got {self.low}, {self.default}, {self.high} at {self.name}")

    def check(self, value: Value) -> None:
        """Raise ConfigError if `value` is no number or outside the range."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ConfigError(f"{self.low} <= {self.name} <= {self.high} must hold, but got {value}")

    def distribution(self) -> BaseDistribution:
        """Return a FloatDistribution."""
        return FloatDistribution(self.low, self.high)

    def sample(self, rng: np.random.Generator) -> Value:
        """Return a uniform draw, to 4 decimals."""
        return self._rounded(rng.uniform(self.low, self.high))

    def neighbour(self, value: Value, rng: np.random.Generator) -> Value:
        """Return `value` moved by a normal step of a fifth of the range, clipped to it."""
        assert isinstance(value, int | float)
        return self._rounded(value + rng.normal(0.0, 0.2 * (self.high - self.low)))

    def features(self, value: Value) -> list[float]:
        """Return the value scaled to [0, 1]."""
        assert isinstance(value, int | float)
        return [(value - self.low) / (self.high - self.low)] if self.high > self.low else []

    def _rounded(self, value: float) -> float:
        # rounded first: a fixed 1 - 0.9 = 0.09999999999999998 must not become 0.1
        return float(np.clip(round(float(value), 4), self.low, self.high))
