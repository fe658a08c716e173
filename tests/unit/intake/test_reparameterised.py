from __future__ import annotations

import torch
from torch import Tensor, nn

from paretopress.intake.trace import take_in


class Block(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, which can be one 3x3 convolution."""

    def __init__(self, channels: int, *, wrong: bool = False, broken: bool = False) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.wrong, self.broken = wrong, broken

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x) if self.narrow is None else self.wide(x) + self.narrow(x)
        return torch.relu(self.norm(y))

    def switch_to_deploy(self) -> None:
        if self.broken:
            raise AttributeError("cheap_rpr_conv")
        with torch.no_grad():
            self.wide.weight += nn.functional.pad(self.narrow.weight, (1, 1, 1, 1)) * (2.0 if self.wrong else 1.0)
            self.wide.bias += self.narrow.bias
        for parameter in self.parameters():
            parameter.detach_()
        self.narrow = None


class Net(nn.Module):
    def __init__(self, **faults: bool) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, 8, 3), Block(8, **faults), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def taken(**faults: bool) -> tuple[Net, set[str]]:
    torch.manual_seed(0)
    model = Net(**faults).eval()
    intake = take_in(model, torch.randn(4, 3, 8, 8))
    return model, {layer.name for layer in intake.graph.layers}


def test_take_in_fuses_a_block_that_offers_it_and_leaves_the_model() -> None:
    model, layers = taken()
    assert layers == {"stem", "block.wide", "fc"}
    assert model.block.narrow is not None


def test_take_in_keeps_the_branches_when_fusing_changes_the_output() -> None:
    assert "block.narrow" in taken(wrong=True)[1]


def test_take_in_keeps_the_branches_when_fusing_fails() -> None:
    assert "block.narrow" in taken(broken=True)[1]
