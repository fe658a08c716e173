"""Random plans on random networks end as right files or typed errors; `benchmarks/fuzz.py` does the same for 300."""

from __future__ import annotations

import pytest
import torch
from fuzz import NEAR, checked
from random_networks import BLOCKS, RandomNetwork

SEEDS = range(1_000, 1_030)  # others than the benchmark's


@pytest.mark.parametrize("seed", SEEDS)
def test_random_plan_gives_a_right_file_or_a_typed_error(seed: int) -> None:
    row = checked(seed)
    assert "error" in row or float(str(row["rounding"])) <= NEAR


def test_random_networks_hold_every_kind_of_block_when_thirty_are_drawn() -> None:
    seen = {name for seed in SEEDS for name in RandomNetwork(seed).description().split()}
    assert seen == {block.__name__ for block in BLOCKS}  # type: ignore[attr-defined]


def test_random_network_is_the_same_when_the_seed_is() -> None:
    first, again = RandomNetwork(3), RandomNetwork(3)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
