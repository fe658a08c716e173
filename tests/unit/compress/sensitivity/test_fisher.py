from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paretopress.compress.factorise import factorise
from paretopress.compress.sensitivity.fisher import Asked, fisher_damages, rounding_change
from paretopress.intake.trace import take_in
from paretopress.system.deadline import Deadline
from paretopress.tasks.base import Task, held_to_the_teacher
from paretopress.tasks.detection import Detection
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation


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


class Sided(Small):
    """With a second output, and a third that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.coded = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.fc(x), self.side(x), self.coded(x).argmax(1)


def test_fisher_damages_hold_further_outputs_to_what_they_were() -> None:
    torch.manual_seed(0)
    model = Sided().eval()
    intake = take_in(model, IMAGES[:4])
    found = fisher_damages(intake.module, intake.graph, IMAGES, Asked(bits={name: [4] for name in ("side", "coded")})).bits
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.side.weight += rounding_change(model.side, 4)
        expected = float(held_to_the_teacher(changed(IMAGES)[:2], model(IMAGES)[:2]))
    assert found["side"][4] == pytest.approx(expected, rel=0.4)
    assert found["coded"][4] == 0.0  # nothing is known of it, and the trials will tell


class Dense(nn.Module):
    """Logits (N, 4, 8, 8) for every pixel, or (N, 64, 4) with a box for each."""

    def __init__(self, *, boxes: bool) -> None:
        super().__init__()
        self.a, self.logits, self.boxes = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)
        self.has_boxes = boxes

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.a(x))
        if self.has_boxes:
            return self.logits(x).flatten(2).transpose(1, 2), self.boxes(x).flatten(2).transpose(1, 2)
        return self.logits(x)


@pytest.mark.parametrize("task", [Segmentation(), Detection(), Regression()], ids=["pixels", "candidates", "values"])
def test_fisher_damages_follow_the_divergence_when_items_have_many_labels(task: Task) -> None:
    torch.manual_seed(0)
    model = Dense(boxes=isinstance(task, Detection)).eval()
    intake = take_in(model, IMAGES[:4])
    found = fisher_damages(intake.module, intake.graph, IMAGES, Asked(bits={"logits": [3]}), task=task).bits["logits"][3]
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.logits.weight += rounding_change(model.logits, 3)
        both = (module(IMAGES) if isinstance(task, Detection) else (module(IMAGES),) for module in (changed, model))
        assert found == pytest.approx(float(task.divergence(*both)), rel=0.4)


def test_fisher_damages_are_of_the_first_batch_when_time_is_short(small: Small) -> None:
    intake = take_in(small, IMAGES[:4])
    asked = Asked(kept={"a": (8,)}, bits={"b": (3,)})
    passed = Deadline(0.0, lambda: 1.0)
    cut = fisher_damages(intake.module, intake.graph, IMAGES, asked, deadline=passed)
    first = fisher_damages(intake.module, intake.graph, IMAGES[:64], asked)
    assert (cut.items, first.items) == (64, 64)
    assert cut.bits == first.bits
    assert cut.kept == first.kept
