"""An integer programme over a search space: the least damage within a budget, where costs depend on a few variables jointly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts at their first use

from paretopress.errors import ConfigError
from paretopress.spaces.variables import Value

Assignment = dict[str, Value]
_TIME_LIMIT_S, _GAP = 2.0, 1e-3
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part costs: `table` maps the values of the variables in `scope`, in that order, to a cost of 0 or more."""

    scope: tuple[str, ...]
    table: Mapping[tuple[Value, ...], float]


@dataclass(frozen=True, slots=True)
class IntegerProgramme:
    """Choose one value per variable so that the sum of damages is least and the sum of costs within a budget.

    Attributes:
        damages: variable -> value -> damage of that value.
        costs: every value combination of a scope must be in its table.
        fixed: cost that no choice changes.
    """

    damages: Mapping[str, Mapping[Value, float]]
    costs: Sequence[Cost]
    fixed: float = 0.0

    def __post_init__(self) -> None:
        for cost in self.costs:
            wanted = set(itertools.product(*(self.damages[name] for name in cost.scope)))
            if wanted != cost.table.keys():
                raise ConfigError(f"a cost must have a figure for every choice of {cost.scope}, but got {len(cost.table)} of {len(wanted)}")

    def cost(self, chosen: Mapping[str, Value]) -> float:
        """Return the cost of an assignment."""
        return self.fixed + sum(cost.table[tuple(chosen[name] for name in cost.scope)] for cost in self.costs)

    def damage(self, chosen: Mapping[str, Value]) -> float:
        """Return the damage of an assignment."""
        return sum(by_value[chosen[name]] for name, by_value in self.damages.items())

    def solve(self, budget: float) -> Assignment | None:
        """Return the assignment of least damage whose cost is within the budget, to a gap of 0.1 %; None if there is none.

        A binary stands for each value of each variable, a number in [0, 1] for each joint choice in a cost's table; the sums of the
        joint choices equal the binaries (the local polytope of a factor graph; Wainwright and Jordan 2008, section 4.1.1), so they are
        whole where the binaries are. Solved by HiGHS through scipy.
        """
        columns: dict[tuple[object, ...], int] = {}
        objective: list[float] = []
        for name, by_value in self.damages.items():
            for value, damage in by_value.items():
                columns[name, value] = len(columns)
                objective.append(damage)
        binaries = len(columns)
        prices: list[float] = [0.0] * binaries
        for index, cost in enumerate(self.costs):
            for values, price in cost.table.items():
                columns[index, *values] = len(columns)
                prices.append(price)
        equalities = self._equalities(columns)
        rows, cols, weights, right = zip(*equalities, strict=True)
        count = max(rows) + 1
        matrix = scipy.sparse.coo_array((weights, (rows, cols)), shape=(count, len(columns))).tocsr()
        totals = np.zeros(count)
        for row, total in zip(rows, right, strict=True):
            totals[row] = total
        # as shares of the largest, to so many digits: HiGHS has tolerances of its own, and equal damages shall be equal in any unit
        harms = np.round(np.array(objective) / (max(objective) or 1.0), _DIGITS)
        found = scipy.optimize.milp(
            c=np.concatenate([harms, np.zeros(len(columns) - binaries)]),
            integrality=np.array([1] * binaries + [0] * (len(columns) - binaries)),
            bounds=scipy.optimize.Bounds(0.0, 1.0),
            constraints=[
                scipy.optimize.LinearConstraint(matrix, totals, totals),
                scipy.optimize.LinearConstraint(np.array(prices)[None, :], -np.inf, budget - self.fixed),
            ],
            options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": _GAP},
        )
        if found.x is None:
            return None
        return {name: max(by_value, key=lambda value: found.x[columns[name, value]]) for name, by_value in self.damages.items()}

    def _equalities(self, columns: Mapping[tuple[object, ...], int]) -> list[tuple[int, int, float, float]]:
        """Return (row, column, weight, right-hand side): one value per variable, and joint choices that add up to the binaries."""
        entries: list[tuple[int, int, float, float]] = []
        row = itertools.count()
        for name, by_value in self.damages.items():
            at = next(row)
            entries += [(at, columns[name, value], 1.0, 1.0) for value in by_value]
        for index, cost in enumerate(self.costs):
            for position, name in enumerate(cost.scope):
                for value in self.damages[name]:
                    at = next(row)
                    entries.append((at, columns[name, value], -1.0, 0.0))
                    entries += [(at, columns[index, *values], 1.0, 0.0) for values in cost.table if values[position] == value]
        return entries
