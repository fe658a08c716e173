from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paretopress.compress.factorise import factorise
from paretopress.compress.fisher import Asked, fisher_damages, rounding_change
from paretopress.intake.trace import take_in


class Small(nn.Module):
    """Two convolutions and a classifier; the activations work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.b(F.relu(self.a(x), inplace=True)), inplace=True)
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def divergence(base: nn.Module, changed: nn.Module) -> float:
    with torch.inference_mode():
        target, found = (F.log_softmax(module(IMAGES), dim=1) for module in (base, changed))
    return float(F.kl_div(found, target, reduction="batchmean", log_target=True))


def test_fisher_damages_follow_the_divergence_when_weights_change_little(small: Small) -> None:
    intake = take_in(small, IMAGES[:4])
    found = fisher_damages(intake.module, intake.graph, IMAGES.repeat(20, 1, 1, 1), Asked(ranks={"b": (15,)}, bits={"b": (3, 4)}))
    for kind, value, change in (("bits", 3, rounding_change(small.b, 3)), ("bits", 4, rounding_change(small.b, 4)), ("ranks", 15, None)):
        changed = copy.deepcopy(small)
        if change is None:
            changed.b = factorise(changed.b, value)  # type: ignore[assignment]
        else:
            with torch.no_grad():
                changed.b.weight += change
        predicted = getattr(found, kind)["b"][value]
        assert predicted == pytest.approx(divergence(small, changed), rel=0.35)


def test_fisher_damages_rise_when_more_is_taken(small: Small) -> None:
    intake = take_in(small, IMAGES[:4])
    found = fisher_damages(
        intake.module, intake.graph, IMAGES, Asked(kept={"a": (15, 8, 1)}, ranks={"b": (12, 4, 1)}, bits={"b": (8, 4, 2)})
    )
    for by_value in (found.kept["a"], found.ranks["b"], found.bits["b"]):
        damages = list(by_value.values())
        assert damages == sorted(damages)
        assert damages[0] > 0.0


def test_fisher_damages_of_pruning_are_zero_when_the_channels_are_dead(small: Small) -> None:
    with torch.no_grad():
        small.a.weight[:8] = 0.0
        small.a.bias[:8] = 0.0
    intake = take_in(small, IMAGES[:4])
    found = fisher_damages(intake.module, intake.graph, IMAGES, Asked(kept={"a": (8, 7)}))
    assert found.kept["a"][8] == 0.0
    assert found.kept["a"][7] > 0.0


def test_fisher_damages_leave_the_module_as_it_was_when_done(small: Small) -> None:
    intake = take_in(small, IMAGES[:4])
    before = copy.deepcopy(intake.module.state_dict())
    fisher_damages(intake.module, intake.graph, IMAGES[:8], Asked(bits={"a": (8,)}))
    assert all(torch.equal(value, intake.module.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in intake.module.parameters())


def test_rounding_change_matches_hand_count_when_four_bits_are_left() -> None:
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[7.0, 2.4, -0.6]]))  # the scale is 7 / 7
    assert rounding_change(layer, 4) == pytest.approx(torch.tensor([[0.0, -0.4, -0.4]]))
