from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.errors import ModelError
from paretopress.graph import LayerKind
from paretopress.intake.trace import take_in


def test_take_in_finds_layers_with_hand_counted_macs_when_traced(tiny: nn.Module, images: Tensor) -> None:
    graph = take_in(tiny, images[:2]).graph
    macs = {layer.name: layer.macs for layer in graph.layers}
    assert macs["stem"] == 64 * 8 * 3 * 9
    assert macs["block2.conv1"] == 16 * 16 * 8 * 9
    assert macs["depthwise"] == 16 * 16 * 9
    assert macs["fc"] == 16 * 4
    assert graph.layer("depthwise").kind is LayerKind.DEPTHWISE


def test_take_in_couples_layers_when_a_residual_add_joins_them(tiny: nn.Module, images: Tensor) -> None:
    groups = {group.name: group.layers for group in take_in(tiny, images[:2]).graph.channel_groups}
    assert groups == {
        "stem": ("stem", "block1.conv2"),
        "block1.conv1": ("block1.conv1",),
        "block2.conv1": ("block2.conv1",),
        "block2.conv2": ("block2.conv2", "block2.down.0", "depthwise"),
    }


def test_take_in_freezes_the_classifier_when_its_outputs_are_the_models(tiny: nn.Module, images: Tensor) -> None:
    frozen = {item.name: item.reason for item in take_in(tiny, images[:2]).graph.frozen}
    assert frozen == {"fc": "its output channels are the model's outputs"}


def test_take_in_finds_the_branch_when_its_skip_is_the_identity(tiny: nn.Module, images: Tensor) -> None:
    (branch,) = take_in(tiny, images[:2]).graph.branches
    assert (branch.group, branch.layers) == ("block1.conv1", ("block1.conv1", "block1.conv2"))


def test_take_in_joins_bits_when_layers_feed_one_add(tiny: nn.Module, images: Tensor) -> None:
    groups = [group.layers for group in take_in(tiny, images[:2]).graph.bit_groups]
    assert ("block2.conv2", "block2.down.0") in groups
    assert ("block1.conv1",) in groups


class ZeroPadded(nn.Module):
    """A shortcut that pads channels with zeros: its outputs are not those of a pruned layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 1, 1)
        self.second = nn.Conv2d(8, 16, 3, 1, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.second(x) + nn.functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.fc(torch.relu(x).mean((2, 3)))


def test_take_in_freezes_a_group_when_pruning_it_would_be_wrong(images: Tensor) -> None:
    graph = take_in(ZeroPadded(), images[:2]).graph
    frozen = {item.name: item.reason for item in graph.frozen}
    assert "first" in frozen or "second" in frozen
    for group in graph.channel_groups:  # what is offered is right: each was proven on the model
        assert set(group.layers) & set(frozen) == set()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.conv(x).mean((2, 3))
        return self.conv(-x).mean((2, 3))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(24, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x.flatten(2).transpose(1, 2).flatten(1)[:, :24].unsqueeze(1))[0][:, 0]


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [(Branching(), "traceable"), (Recurrent(), "LSTM at rnn"), (Bare(), "bare parameter scale")],
    ids=["data-dependent branch", "unknown layer type", "bare parameter"],
)
def test_take_in_names_the_obstacle_when_the_model_is_not_supported(model: nn.Module, message: str, images: Tensor) -> None:
    with pytest.raises(ModelError, match=message):
        take_in(model.eval(), images[:2])
