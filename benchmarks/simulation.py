"""What simulated searches on the surrogate share: the setting, and the interval of a paired difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from plan_table import CONFIG, KNOWN, read_table
from surrogate import Surrogate

from paretopress.config import read_config
from paretopress.core.model_graph import ModelGraph
from paretopress.core.outcome import Budget
from paretopress.run.setup import space_for
from paretopress.search.candidates import Bounds
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import SearchSpace
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment

SPEEDUP = 2.0


@dataclass(frozen=True, slots=True)
class Setting:
    """A search of the CIFAR-10 (JPEG) ResNet-20 for twice the baseline's speed; `rows` are the real plans of the surrogate."""

    space: SearchSpace
    surrogate: Surrogate
    bounds: Bounds
    tables: CostTables
    removal_order: tuple[str, ...]
    rows: Sequence[dict[str, object]]


@cache
def setting() -> Setting:
    """Return the setting, made once in each process."""
    facts, rows = json.loads(KNOWN.read_text()), read_table()
    space = space_for(ModelGraph.from_json(facts["graph"]), read_config(CONFIG), detect(environment()))
    bounds = Bounds(Budget(speedup=SPEEDUP), facts["baseline_ms"], facts["baseline_accuracy"])
    surrogate = Surrogate(space, rows, facts["baseline_accuracy"])
    return Setting(space, surrogate, bounds, CostTables.from_json(facts["tables"]), tuple(facts["removal_order"]), rows)


def median_interval(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % interval of the median of paired differences, by bootstrap."""
    draws = np.median(rng.choice(differences, (2_000, len(differences))), axis=1)
    low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    return low, high
