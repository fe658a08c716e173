"""Cost tables: the measured cost of every layer, and the predicted damage of every choice made alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretopress.errors import RunFolderError
from paretopress.spaces.variables import Value

TABLES_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CostTables:
    """Costs and damages of one model; kept in the run folder, so that another budget can be solved for without measuring.

    Attributes:
        layer_ms: layer -> bits -> measured milliseconds at full width, in a model that has these bits everywhere.
        rest_ms: bits -> measured milliseconds of what belongs to no layer (adds, pooling, reorders).
        floor_ms: the cheapest measured layer: what a node costs however little it computes.
        damages: parameter -> value -> predicted divergence from the unchanged model's outputs, in nats.
    """

    layer_ms: Mapping[str, Mapping[int, float]]
    rest_ms: Mapping[int, float]
    floor_ms: float
    damages: Mapping[str, Mapping[Value, float]]

    def scaled(self, factor: float) -> CostTables:
        """Return the tables with all milliseconds multiplied: the same machine in another state."""
        layers = {name: {bits: factor * ms for bits, ms in by_bits.items()} for name, by_bits in self.layer_ms.items()}
        return CostTables(layers, {bits: factor * ms for bits, ms in self.rest_ms.items()}, factor * self.floor_ms, self.damages)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return {
            "schema": TABLES_SCHEMA,
            "layer_ms": {name: {str(bits): ms for bits, ms in by_bits.items()} for name, by_bits in self.layer_ms.items()},
            "rest_ms": {str(bits): ms for bits, ms in self.rest_ms.items()},
            "floor_ms": self.floor_ms,
            "damages_predicted_nats": {name: [[value, damage] for value, damage in table.items()] for name, table in self.damages.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CostTables:
        """Return what `to_json` wrote; raises RunFolderError for another schema."""
        if value.get("schema") != TABLES_SCHEMA:
            raise RunFolderError(f"tables.json must have schema {TABLES_SCHEMA}, but got schema={value.get('schema')}")
        return cls(
            {name: {int(bits): ms for bits, ms in by_bits.items()} for name, by_bits in value["layer_ms"].items()},
            {int(bits): ms for bits, ms in value["rest_ms"].items()},
            value["floor_ms"],
            {name: dict(table) for name, table in value["damages_predicted_nats"].items()},
        )
