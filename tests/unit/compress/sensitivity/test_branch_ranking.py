"""Which branches a model misses least, and how much of that is found when the time is short."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.sensitivity.branch_ranking import BranchRanking, rank_branches
from paretopress.intake.trace import take_in
from paretopress.system.deadline import NO_DEADLINE, Deadline
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


class Branch(nn.Module):
    """x plus a convolution of it, which is the stronger the larger `strength` is."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        with torch.no_grad():
            self.conv2.weight.mul_(strength)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class Branches(nn.Module):
    """Four branches, of which the third matters least and the second most."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.Sequential(*map(Branch, (3.0, 9.0, 0.1, 1.0)))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


@dataclass
class Calls:
    """Counts recalibrations: each is one branch, or one set of them, that was judged."""

    count: int = 0

    def __call__(self, _: nn.Module) -> None:
        self.count += 1


@pytest.fixture
def rank() -> Callable[..., BranchRanking]:
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    intake = take_in(Branches().eval(), images[:2])

    def ranked(calls: Calls, *, greedy: bool, calls_allowed: int | None = None) -> BranchRanking:
        until = NO_DEADLINE if calls_allowed is None else Deadline(calls_allowed, lambda: float(calls.count))
        return rank_branches(intake.module, intake.graph, images, calls, greedy=greedy, deadline=until)

    return ranked


def test_rank_branches_judges_all_when_there_is_time(rank: Callable[..., BranchRanking]) -> None:
    calls = Calls()
    found = rank(calls, greedy=True)
    assert calls.count == 4 + 3 + 2 + 1
    assert found.order[0] == "blocks.2.conv1"
    assert found.order[-1] == "blocks.1.conv1"
    assert found.cut == ""


def test_rank_branches_takes_unjudged_ones_as_worst_when_time_is_short(rank: Callable[..., BranchRanking]) -> None:
    whole, calls = rank(Calls(), greedy=False), Calls()
    found = rank(calls, greedy=True, calls_allowed=2)
    assert calls.count == 2
    assert found.cut == "2 of 4 branches were judged"
    assert set(found.order) == set(whole.order)
    for name in ("blocks.0.conv1", "blocks.1.conv1"):
        assert found.loss_alone[name] == whole.loss_alone[name]
    assert found.loss_alone["blocks.2.conv1"] == found.loss_alone["blocks.3.conv1"] == whole.loss_alone["blocks.1.conv1"]


def test_rank_branches_orders_the_rest_by_what_is_known_when_time_ends(rank: Callable[..., BranchRanking]) -> None:
    calls = Calls()
    found = rank(calls, greedy=True, calls_allowed=6)
    assert calls.count == 7  # the round that was begun is ended
    assert found.order == rank(Calls(), greedy=True).order
    assert found.cut == "2 of 4 branches were ranked beside those removed before"
