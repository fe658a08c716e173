from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.core.model_graph import LayerKind, Role
from paretopress.errors import ModelError
from paretopress.intake.groups import channel_groups
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


def test_take_in_names_the_obstacle_when_control_flow_depends_on_values(images: Tensor) -> None:
    with pytest.raises(ModelError, match="must not depend on the values of its inputs"):
        take_in(Branching().eval(), images[:2])


class Others(nn.Module):
    """A convolution, a transposed one and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.wider = nn.ConvTranspose2d(8, 4, 2, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.wider(self.conv(x)).mean((2, 3)) * self.scale


def test_take_in_leaves_weights_alone_when_their_layer_is_of_another_type(images: Tensor) -> None:
    graph = take_in(Others().eval(), images[:2]).graph
    frozen = {item.name: item.reason for item in graph.frozen}
    assert frozen["wider"] == "ConvTranspose2d is neither a convolution nor a Linear"
    assert frozen["scale"] == "a parameter outside of a convolution or Linear"
    assert [layer.name for layer in graph.layers] == ["conv"]


def test_take_in_raises_when_no_layer_can_be_changed(images: Tensor) -> None:
    with pytest.raises(ModelError, match="must hold a convolution or a Linear"):
        take_in(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(images[0].numel())).eval(), images[:2])


class Grouped(nn.Module):
    """A pointwise convolution that feeds a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


def test_take_in_prunes_a_grouped_convolution_by_whole_groups(images: Tensor) -> None:
    graph = take_in(Grouped().eval(), images[:2]).graph
    assert [item.name for item in graph.frozen] == ["fc"]
    (group,) = graph.channel_groups
    assert (group.layers, group.feeds, group.channels, group.unit) == (("first", "second"), ("second", "fc"), 8, 4)


class Sliced(nn.Module):
    """An nn.Sequential called in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2:](self.layers[:2](x)).mean(2)


def test_take_in_traces_through_a_slice_of_a_sequential(images: Tensor) -> None:
    model = Sliced().eval()
    intake = take_in(model, images[:2])
    assert [layer.name for layer in intake.graph.layers] == ["layers.0", "layers.2"]
    with torch.inference_mode():
        assert torch.equal(intake.module(images), model(images))


class ConcatenatedTwice(nn.Module):
    """Two concatenations in a row, as in DenseNet, each before a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 4, 3, 1, 1), nn.Conv2d(12, 4, 3, 1, 1)])
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.fc(x.mean((2, 3)))


def test_take_in_proves_groups_that_meet_in_concatenations_at_once(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ConcatenatedTwice().eval()
    for norm in model.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.bias)
    proofs = []
    proof = channel_groups._proof_fails
    monkeypatch.setattr(channel_groups, "_proof_fails", lambda *args: proofs.append(proof(*args)) or proofs[-1])
    groups = take_in(model, images[:2]).graph.channel_groups
    assert {group.name for group in groups} == {"stem", "convs.0", "convs.1"}
    assert proofs == [""]


class Normalised(nn.Module):
    """A block of ConvNeXt: a depthwise layer, a layer norm over channels, two pointwise layers, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.norm, self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.second(nn.functional.gelu(self.first(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return self.fc((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def test_take_in_prunes_channels_under_a_layer_norm_with_its_scales(images: Tensor) -> None:
    graph = take_in(Normalised().eval(), images[:2]).graph
    groups = {group.name: group for group in graph.channel_groups}
    assert groups.keys() == {"stem", "first"}
    assert groups["stem"].layers == ("stem", "depthwise", "second")
    assert ("norm", Role.VALUES) in [(part.path, part.role) for part in groups["stem"].parts]
    assert [branch.layers for branch in graph.branches] == [("depthwise", "first", "second")]
