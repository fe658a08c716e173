"""Global generators: seeded inside a block, untouched outside."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from paretopress.seeding import seeded, undisturbed

Draws = tuple[float, float, float]


def drawn() -> Draws:
    return float(torch.rand(())), float(np.random.rand()), random.random()


@pytest.mark.parametrize("seed", [0, 3, 2**32 + 3, 10**15])
def test_seeded_repeats_all_draws_when_the_seed_is_the_same(seed: int) -> None:
    with seeded(seed):
        one = drawn()
    drawn()
    with seeded(seed):
        two = drawn()
    with seeded(seed + 1):
        three = drawn()
    assert one == two
    assert not set(one) & set(three)


def test_undisturbed_leaves_the_generators_as_they_were_when_they_are_seeded_inside() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with undisturbed():
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
        drawn()
    assert drawn() == expected


def spoilt() -> None:
    drawn()
    raise ValueError("inside")


def test_seeded_leaves_the_generators_as_they_were_when_the_block_raises() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(ValueError, match="inside"), seeded(5):
        spoilt()
    assert drawn() == expected
