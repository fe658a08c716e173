from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from paretopress.tasks.base import Task
from paretopress.tasks.binary import MaskSegmentation, YesOrNo, binary_distillation_loss, binary_divergence
from paretopress.tasks.spread import score_error

RNG = np.random.default_rng(0)
LOGITS = torch.tensor([[2.0, -1.0], [-1.0, 3.0], [0.5, -2.0], [-0.5, -0.5]])
LABELS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])


def score(task: Task, outputs: torch.Tensor, targets: torch.Tensor, batch: int = 2) -> float:
    scorer = task.scorer()
    for found, wanted in zip(outputs.split(batch), targets.split(batch), strict=True):
        scorer.update([found.numpy()], wanted.numpy())
    return scorer.score()


def test_scores_are_those_worked_out_by_hand() -> None:
    # told: [1 0], [0 1], [1 0], [0 0]; right in both, both, none, both
    assert score(YesOrNo("top-1"), LOGITS, LABELS) == pytest.approx(75.0)
    # label 0: 1 right, 1 false; label 1: 1 right, 1 missed
    assert score(YesOrNo("F1"), LOGITS, LABELS) == pytest.approx(100.0 * 2 / 3)
    # label 0: the one with it scores highest; label 1: 3.0 and -2.0 against -1.0 and -0.5
    assert score(YesOrNo("AUROC"), LOGITS, LABELS) == pytest.approx(100.0 * (1.0 + 0.5) / 2)


@pytest.mark.parametrize(("name", "other"), [("AUROC", metrics.roc_auc_score), ("mAP", metrics.average_precision_score)])
def test_ranking_metrics_are_scikit_learn_s(name: str, other: object) -> None:
    logits, labels = RNG.normal(size=(200, 3)).astype(np.float32), RNG.integers(0, 2, (200, 3))
    logits += labels
    found = score(YesOrNo(name), torch.from_numpy(logits), torch.from_numpy(labels), 64)
    assert found == pytest.approx(100.0 * other(labels, logits, average="macro"))  # type: ignore[operator]


def test_one_logit_an_item_is_scored_whatever_its_shape() -> None:
    labels = torch.tensor([1, 1, 0, 0])
    assert score(YesOrNo("top-1"), LOGITS[:, :1], labels) == 50.0
    assert score(YesOrNo("top-1"), LOGITS[:, 0], labels) == 50.0


def test_masks_are_scored_by_the_overlap_of_both_sides_without_void_pixels() -> None:
    logits = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]])
    masks = torch.tensor([[[1, 0], [255, 0]]])
    # mask: 1 shared of 2; background: 1 shared of 2
    assert score(MaskSegmentation(), logits, masks) == pytest.approx(50.0)
    assert score(MaskSegmentation(), logits, masks[:, None]) == pytest.approx(50.0)


def test_checks_say_what_is_wrong() -> None:
    assert YesOrNo().check([LOGITS], LABELS) == ""
    assert "a logit for each label" in YesOrNo().check([LOGITS], LABELS[:, :1])
    assert "0 or 1" in YesOrNo().check([LOGITS], LABELS * 3)
    assert "(N, 1, H, W)" in MaskSegmentation().check([LOGITS], LABELS)
    assert "255" in MaskSegmentation().check([torch.zeros(1, 1, 2, 2)], torch.full((1, 2, 2), 7))


def test_binary_distillation_loss_is_that_of_two_classes() -> None:
    student, teacher = torch.tensor([[0.3]]), torch.tensor([[1.2]])
    p, q = 1 / (1 + math.exp(-1.2 / 2)), 1 / (1 + math.exp(-0.3 / 2))
    soft = 4.0 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    hard = -math.log(1 / (1 + math.exp(-0.3)))
    found = binary_distillation_loss(student, teacher, torch.tensor([[1]]), temperature=2.0, alpha=0.75)
    assert float(found) == pytest.approx(0.75 * soft + 0.25 * hard, rel=1e-5)


def test_divergence_is_zero_for_the_same_and_grows() -> None:
    task = YesOrNo()
    assert float(task.divergence([LOGITS], [LOGITS])) == pytest.approx(0.0, abs=1e-6)
    assert float(task.divergence([LOGITS + 1.0], [LOGITS])) > float(task.divergence([LOGITS + 0.1], [LOGITS])) > 0.0
    assert (binary_divergence(LOGITS - 2.0, LOGITS) >= 0.0).all()


def test_sampled_nll_is_that_of_labels_drawn_from_the_logits() -> None:
    sure = torch.tensor([[40.0, -40.0]])
    assert float(YesOrNo().sampled_nll([sure], torch.Generator().manual_seed(0))) == pytest.approx(0.0, abs=1e-6)
    coins = torch.zeros(1, 100)
    assert float(YesOrNo().sampled_nll([coins], torch.Generator().manual_seed(0))) == pytest.approx(100 * math.log(2.0), rel=1e-5)


@pytest.mark.parametrize("task", [YesOrNo("top-1"), YesOrNo("F1"), YesOrNo("AUROC"), YesOrNo("mAP"), MaskSegmentation()])
def test_scores_have_a_standard_error(task: Task) -> None:
    scorer = task.scorer()
    if isinstance(task, MaskSegmentation):
        logits, labels = RNG.normal(size=(60, 1, 4, 4)), RNG.integers(0, 2, (60, 4, 4))
    else:
        logits, labels = RNG.normal(size=(60, 3)), RNG.integers(0, 2, (60, 3))
    scorer.update([logits], labels)
    error = score_error(scorer)
    assert error is not None
    assert 0.0 < error < 20.0
