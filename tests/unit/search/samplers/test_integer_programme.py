from __future__ import annotations

import itertools

import numpy as np
import pytest

from paretopress.errors import ConfigError
from paretopress.search.samplers.integer_programme import Cost, IntegerProgramme

WIDTHS = {0.0: 0.0, 0.5: 1.0, 1.0: 5.0}  # share removed -> damage
BITS = {32: 0.0, 8: 0.4}
# a layer costs its width times 4 ms in float, 1 ms in int8
LAYER = Cost(("prune", "bits"), {(width, bits): (1.0 - width) * (4.0 if bits == 32 else 1.0) for width in WIDTHS for bits in BITS})
ONE = IntegerProgramme({"prune": WIDTHS, "bits": BITS}, [LAYER], fixed=1.0)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (5.0, {"prune": 0.0, "bits": 32}),  # everything fits
        (4.9, {"prune": 0.0, "bits": 8}),  # int8 costs 0.4 of damage, half of the channels 1.0
        (1.9, {"prune": 0.5, "bits": 8}),
        (1.4, {"prune": 1.0, "bits": 32}),  # removed: its bits cost damage and save nothing
        (0.9, None),  # below what no choice changes
    ],
)
def test_solve_takes_the_least_damage_when_the_budget_allows(budget: float, expected: dict[str, object] | None) -> None:
    assert ONE.solve(budget) == expected


def test_cost_and_damage_match_hand_count_when_joint() -> None:
    chosen = {"prune": 0.5, "bits": 8}
    assert ONE.cost(chosen) == pytest.approx(1.5)
    assert ONE.damage(chosen) == pytest.approx(1.4)


def test_programme_raises_when_a_combination_has_no_cost() -> None:
    with pytest.raises(ConfigError, match="a figure for every choice"):
        IntegerProgramme({"bits": BITS}, [Cost(("bits",), {(32,): 1.0})])


@pytest.mark.parametrize("seed", range(6))
def test_solve_equals_brute_force_when_variables_are_shared(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    damages = {name: dict(zip((0, 1, 2), sorted([0.0, *rng.random(2)]), strict=True)) for name in names}
    costs = [
        Cost(scope, {values: float(rng.random()) for values in itertools.product((0, 1, 2), repeat=2)})
        for scope in (("a", "b"), ("b", "c"), ("c", "d"))
    ]
    programme = IntegerProgramme(damages, costs)
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product((0, 1, 2), repeat=4)]
    budget = float(np.quantile([programme.cost(chosen) for chosen in everything], 0.1))
    best = min(programme.damage(chosen) for chosen in everything if programme.cost(chosen) <= budget)
    found = programme.solve(budget)
    assert found is not None
    assert programme.cost(found) <= budget + 1e-9
    assert programme.damage(found) == pytest.approx(best, rel=2e-3)
