"""Learning rates are chosen by what students do on items that they were not trained on."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.utils.data import TensorDataset

from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.learning_rates import learning_rate_test
from paretopress.compress.recover.recipe import Recipe


def test_learning_rate_test_gives_infinity_when_a_rate_diverges(tiny: nn.Module, train: TensorDataset) -> None:
    def student() -> nn.Module:
        broken = copy.deepcopy(tiny)
        with torch.no_grad():
            broken.fc.bias[0] = math.nan
        return broken

    loss_of = Recovery(tiny, train, Recipe(0.01, 16)).held_out_loss(train[:8], 4.0, 0.9)
    losses = learning_rate_test(student, lambda rate: Recovery(tiny, train, Recipe(rate, 16)), (0.01, 0.1), 1, loss_of)
    assert losses == {0.01: math.inf, 0.1: math.inf}


def test_learning_rate_test_prefers_a_low_rate_when_items_are_few(tiny: nn.Module, train: TensorDataset) -> None:
    few = TensorDataset(train[:4][0], torch.randint(0, 4, (4,), generator=torch.Generator().manual_seed(1)))  # labels mean nothing
    unseen = train[32:64][0]
    with torch.inference_mode():
        held_out = unseen, tiny.eval()(unseen).argmax(dim=1)
    loss_of = Recovery(tiny, few, Recipe(1e-5, 4)).held_out_loss(held_out, 4.0, 0.9)
    rates = (1e-5, 0.3)
    losses = learning_rate_test(lambda: copy.deepcopy(tiny), lambda rate: Recovery(tiny, few, Recipe(rate, 4)), rates, 20, loss_of)
    assert losses[1e-5] < losses[0.3]
    learnt = {
        rate: Recovery(tiny, few, Recipe(rate, 4)).run(copy.deepcopy(tiny), temperature=4.0, alpha=0.9, steps=20, seed=0) for rate in rates
    }
    assert learnt[0.3].last_loss < learnt[1e-5].last_loss
