"""The plan: one immutable, JSON-serialisable point of the search space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from paretopress.errors import ConfigError

PLAN_SCHEMA = 1
FLOAT_BITS, INT8_BITS = 32, 8
KNOWN_BITS = (4, INT8_BITS, FLOAT_BITS)


class Criterion(StrEnum):
    """What the channels of a group are ranked by before some of them go; see `compress.sensitivity.channel_importance`."""

    L2 = "l2"
    L1 = "l1"
    BN_SCALE = "bn_scale"
    TAYLOR = "taylor"
    MEAN_ACTIVATION = "mean_activation"
    APOZ = "apoz"


def _frozen(mapping: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(sorted(mapping.items())))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to a model; whatever a mapping does not name stays as it is.

    Attributes:
        kept: channel group -> channels kept; 0 removes the residual branch that the group leads.
        rank: layer -> rank of the factors that replace it, in ranks of the channel SVD.
        bits: bit group -> weight bits, 8 (static QDQ, int8 activations) or 4 (weight-only); 32 is float and left out.
        temperature: distillation temperature T > 0 (Hinton et al. 2015, section 2).
        alpha: share of the distillation loss in [0, 1]; the rest is cross-entropy with the labels.
        importance: what decides which channels are kept; `Criterion.L2` where the plan thins no group.
        resolution: share in (0, 1] of the height and width of its images at which the model runs.
    """

    kept: Mapping[str, int] = field(default_factory=dict)
    rank: Mapping[str, int] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    temperature: float = 4.0
    alpha: float = 0.9
    importance: Criterion = Criterion.L2
    resolution: float = 1.0
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        for name, value in self.kept.items():
            if value < 0:
                raise ConfigError(f"kept channels must be at least 0, but got {value} at {name}")
        for name, value in self.rank.items():
            if value < 1:
                raise ConfigError(f"a rank must be at least 1, but got {value} at {name}")
        for name, value in self.bits.items():
            if value not in KNOWN_BITS:
                raise ConfigError(f"bits must be one of {KNOWN_BITS}, but got {value} at {name}")
        if not self.temperature > 0.0:
            raise ConfigError(f"temperature > 0 must hold, but got temperature={self.temperature}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"0 <= alpha <= 1 must hold, but got alpha={self.alpha}")
        if not 0.0 < self.resolution <= 1.0:
            raise ConfigError(f"0 < resolution <= 1 must hold, but got resolution={self.resolution}")
        try:
            importance = Criterion(self.importance)
        except ValueError as error:
            raise ConfigError(f"importance must be one of {', '.join(Criterion)}, but got {self.importance!r}") from error
        object.__setattr__(self, "importance", importance if self.thins() else Criterion.L2)
        object.__setattr__(self, "kept", _frozen(self.kept))
        object.__setattr__(self, "rank", _frozen(self.rank))
        object.__setattr__(self, "bits", _frozen({k: v for k, v in self.bits.items() if v != FLOAT_BITS}))
        items = (tuple(self.kept.items()), tuple(self.rank.items()), tuple(self.bits.items()))
        object.__setattr__(self, "_hash", hash((*items, self.temperature, self.alpha, self.importance, self.resolution)))

    def __hash__(self) -> int:
        return self._hash  # a search looks its thousands of plans up again and again

    def thins(self) -> bool:
        """Return whether the plan keeps a part of some group's channels, which `importance` chooses."""
        return any(self.kept.values())

    def structure(self) -> Plan:
        """Return the plan without its distillation settings and importance: what decides latency, MACs and size."""
        return Plan(self.kept, self.rank, self.bits, resolution=self.resolution)

    def widths(self) -> Plan:
        """Return the plan's kept channels, ranks and resolution: what decides the multiply-adds and the float file before any training."""
        return Plan(self.kept, self.rank, resolution=self.resolution)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal plan."""
        return {
            "schema": PLAN_SCHEMA,
            "kept": dict(self.kept),
            "rank": dict(self.rank),
            "bits": dict(self.bits),
            "temperature": self.temperature,
            "alpha": self.alpha,
            "importance": self.importance,
            **({} if self.resolution == 1.0 else {"resolution": self.resolution}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises: ConfigError: another schema, or a key that no plan has.
        """
        fields = dict(value)
        schema = fields.pop("schema", None)
        if schema != PLAN_SCHEMA:
            raise ConfigError(f"a plan must have schema {PLAN_SCHEMA}, but got schema={schema}")
        unknown = fields.keys() - {"kept", "rank", "bits", "temperature", "alpha", "importance", "resolution"}
        if unknown:
            raise ConfigError(f"a plan has no keys {sorted(unknown)}")
        return cls(**fields)

    def digest(self) -> str:
        """Return 16 hex digits that name the plan's content."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
