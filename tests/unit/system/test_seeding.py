"""Global generators: seeded inside a block, untouched outside."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from paretopress import api
from paretopress.config import parse_config
from paretopress.errors import ConfigError
from paretopress.report.live import SilentReporter
from paretopress.system.seeding import seeded, undisturbed

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


def test_undisturbed_leaves_generators_as_they_were_when_seeded_inside() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with undisturbed():
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
        drawn()
    assert drawn() == expected


def test_start_run_leaves_generators_as_they_were_when_factories_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(*_: object) -> None:
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
        raise ConfigError("no such model")

    monkeypatch.setattr(api, "load_and_trace", seeds)
    config = parse_config({"schema": 1, "budget": {"speedup": 2.0}, "time": {"trials": 1}}, "the test")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(ConfigError, match="no such model"):
        api.start_run(config, tmp_path / "run", SilentReporter())
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
