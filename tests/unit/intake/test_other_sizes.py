"""Whether a model's resolution can be a choice: it runs at others, and puts out the same shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.intake.trace import take_in
from paretopress.spaces.space import SearchSpace, SpaceOptions

SHARES = (1.0, 0.75, 0.5)


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Flattens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.conv(x), 1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.fc = nn.Embedding(9, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.words(tokens).mean(1))


def test_take_in_finds_that_a_model_takes_any_size(tiny: nn.Module, images: Tensor) -> None:
    graph = take_in(tiny, images[:2], resolutions=SHARES).graph
    assert graph.fixed_size == ""
    space = SearchSpace(graph, SpaceOptions(resolution=SHARES))
    assert "input/resolution" in {variable.name for variable in space.variables}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Flattens(), "at 0.75 of its images' size the model must take its inputs, but it raised"),
        (Pixels(), "at 0.75 of its images' size its outputs have other shapes, (4, 6, 6)"),
    ],
)
def test_take_in_says_why_a_model_takes_no_other_size(model: nn.Module, reason: str, images: Tensor) -> None:
    graph = take_in(model.eval(), images[:2], resolutions=SHARES).graph
    assert graph.fixed_size.startswith(reason)
    space = SearchSpace(graph, SpaceOptions(resolution=SHARES))
    assert "input/resolution" not in {variable.name for variable in space.variables}
    assert ("resolution", graph.fixed_size) in [(left.name, left.reason) for left in space.left_out]


def test_take_in_says_that_tokens_have_no_resolution() -> None:
    graph = take_in(Words().eval(), torch.randint(0, 9, (2, 5)), resolutions=SHARES).graph
    assert graph.fixed_size == "the model takes no images, (N, C, H, W) of floats"


def test_take_in_tries_no_size_unless_asked(images: Tensor) -> None:
    assert take_in(Flattens().eval(), images[:2]).graph.fixed_size == ""
