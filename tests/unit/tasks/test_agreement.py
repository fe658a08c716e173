from __future__ import annotations

import numpy as np
import pytest
import torch

from paretopress.tasks.agreement import Agreement
from paretopress.tasks.base import Task

WANTED = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0], [2.0, 1.0]])


def score(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    scorer = task.scorer()
    for found, wanted in zip(outputs.split(3), targets.split(3), strict=True):
        scorer.update([found.numpy()], wanted.numpy())
    return scorer.score()


def test_agreement_counts_items_whose_highest_logit_is_the_original_s() -> None:
    found = WANTED.clone()
    found[0] = torch.tensor([0.0, 1.0])
    assert score(Agreement(), found, WANTED) == 75.0
    assert score(Agreement(), WANTED, WANTED) == 100.0


def test_sqnr_is_the_ratio_of_squares_in_decibels() -> None:
    # 20 / (4 * 2 * 0.01) = 250
    assert score(Agreement("SQNR"), WANTED + 0.1, WANTED) == pytest.approx(10.0 * np.log10(float(WANTED.square().sum()) / 0.08), rel=1e-5)
    assert score(Agreement("SQNR"), WANTED, WANTED) == 100.0
    assert Agreement("SQNR").metric.unit == "dB"


def test_loss_takes_nothing_from_the_targets() -> None:
    task, student, teacher = Agreement(), [WANTED + 0.3 * WANTED.flip(1)], [WANTED]
    losses = [float(task.loss(student, teacher, targets, temperature=2.0, alpha=0.3)) for targets in (torch.zeros(4), torch.ones(4))]
    assert losses[0] == losses[1] > 0.0


def test_check_says_when_agreement_is_not_of_logits() -> None:
    assert "SQNR" in Agreement().check([torch.zeros(2, 3, 4, 4)], torch.zeros(2, 3, 4, 4))
    assert Agreement("SQNR").check([torch.zeros(2, 3, 4, 4)], torch.zeros(2, 3, 4, 4)) == ""
    assert "as the original's" in Agreement("SQNR").check([torch.zeros(2, 3)], torch.zeros(2, 4))
