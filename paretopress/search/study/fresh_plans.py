"""Find a plan that was not tried when the sampler repeats itself, or detect that the space is exhausted."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from paretopress.core.plan import Plan
from paretopress.search.storage.records import Records
from paretopress.spaces.space import Params, SearchSpace
from paretopress.spaces.variables import Choice, Range, Value, Variable

USED_UP = "used_up"  # attribute of a study
# the plans of a space of so many combinations are listed; of a larger one so many are drawn to find one that was not tried
_LISTED, _DRAWS = 4_096, 512
# after so many trials in a row that told nothing new one is proposed here; samplers copy now and then, and go on by themselves
_COPIES = 3


@dataclass(slots=True)
class FreshPlans:
    """Detects an exhausted search space from the trials of one study."""

    space: SearchSpace
    _combinations: float = field(init=False)
    _listed: dict[Plan, Params] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._combinations = math.prod(len(values) if (values := _values(variable)) else math.inf for variable in self.space.variables)

    def proposal(self, records: Records, rng: np.random.Generator) -> Params | str | None:
        """Return None while the sampler finds new plans by itself, else parameters of a plan that was not tried, or why there are none.

        In a small space one copy is enough to look, and a space of which all is tried is seen at once, whatever the sampler.
        """
        copies, small = records.copies_in_a_row(_COPIES), self._combinations <= _LISTED
        if not copies and (not small or records.tried() < self._combinations):
            return None
        if small:
            known = records.plans()
            left = [params for plan, params in self._every_plan().items() if plan not in known]
            if not left:
                return f"the space is used up: each of its {len(self._listed)} plans was tried"
            return left[int(rng.integers(len(left)))] if copies else None
        if copies < _COPIES:
            return None
        known = records.plans()
        drawn = ({variable.name: variable.sample(rng) for variable in self.space.variables} for _ in range(_DRAWS))
        fresh = next((params for params in drawn if self.space.plan(params) not in known), None)
        return fresh or f"the space is used up: of {_DRAWS} plans drawn from it each was tried"

    def _every_plan(self) -> dict[Plan, Params]:
        """Return the plans of a small space, each with parameters that mean it."""
        if not self._listed:
            names = [variable.name for variable in self.space.variables]
            for values in itertools.product(*map(_values, self.space.variables)):
                params = dict(zip(names, values, strict=True))
                self._listed.setdefault(self.space.plan(params), params)
        return self._listed


def _values(variable: Variable) -> tuple[Value, ...]:
    """Return the values of a variable, none if they cannot be listed."""
    if isinstance(variable, Choice):
        return variable.values
    return (variable.low,) if isinstance(variable, Range) and variable.low == variable.high else ()
