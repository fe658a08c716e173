from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.sensitivity import rank_branches
from paretopress.intake.trace import take_in
from paretopress.tasks.classification import Classification


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.a, self.b = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.a(x))
        x = torch.relu(x + self.b(x))
        return self.head(x.mean((2, 3)))


def test_rank_branches_removes_last_what_makes_the_model_collapse(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    divergences = iter((math.nan, 1.0))
    monkeypatch.setattr(Classification, "divergence", lambda *_: torch.tensor(next(divergences)))
    intake = take_in(Skips().eval(), images)
    assert len(intake.graph.branches) == 2
    found = rank_branches(intake.module, intake.graph, images, lambda _: None, greedy=False)
    first, second = (branch.group for branch in intake.graph.branches)
    assert found.order == (second, first)
    assert found.loss_alone == {first: math.inf, second: 1.0}
