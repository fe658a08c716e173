"""Every task's loss takes outputs in bfloat16, in which training runs where the CPU is faster in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paretopress.tasks.agreement import Agreement
from paretopress.tasks.base import Task
from paretopress.tasks.binary import MaskSegmentation, YesOrNo
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.label_forms import OneHot
from paretopress.tasks.metric_names import AGREEMENT, MAP_50, SQNR
from paretopress.tasks.raw_heads import RawDetection
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation

N = 4
OBJECTS = torch.tensor([[[1.0, 1.0, 20.0, 20.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]]).repeat(N, 1, 1)
CASES: dict[str, tuple[Task, list[tuple[int, ...]], Tensor]] = {
    "top-1": (Classification(), [(N, 5)], torch.arange(N)),
    "one-hot": (OneHot(Classification()), [(N, 5)], torch.eye(5)[:N]),
    "labels": (YesOrNo(), [(N, 5)], torch.ones(N, 5)),
    "mask": (MaskSegmentation(), [(N, 1, 6, 6)], torch.ones(N, 1, 6, 6)),
    "segmentation": (Segmentation(), [(N, 3, 6, 6)], torch.zeros(N, 6, 6, dtype=torch.long)),
    "regression": (Regression("R2"), [(N, 2)], torch.zeros(N, 2)),
    "agreement": (Agreement(AGREEMENT), [(N, 5)], torch.zeros(N, 5)),
    "SQNR": (Agreement(SQNR), [(N, 3, 4, 4)], torch.zeros(N, 3, 4, 4)),
    "boxes": (Detection(), [(N, 12, 3), (N, 12, 4)], OBJECTS),
    "yolo": (RawDetection("yolo", (32, 32), MAP_50), [(N, 7, 4, 4), (N, 7, 2, 2)], OBJECTS),
    "yolo, two outputs": (RawDetection("yolo", (32, 32), MAP_50), [(N, 64, 20), (N, 3, 20)], OBJECTS),
    "yolox": (RawDetection("yolox", (32, 32), MAP_50), [(N, 8, 4, 4), (N, 8, 2, 2)], OBJECTS),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_damage_are_finite_when_outputs_are_bfloat16(name: str) -> None:
    task, shapes, targets = CASES[name]
    torch.manual_seed(0)
    student = [torch.randn(shape).bfloat16().requires_grad_() for shape in shapes]
    for kind in (torch.float32, torch.bfloat16):
        teacher = [torch.randn(shape).to(kind) for shape in shapes]
        loss = task.loss(student, teacher, targets, temperature=2.0, alpha=0.5)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(task.divergence([part.detach() for part in student], teacher))
    assert student[0].grad is not None
    assert float(student[0].grad.abs().sum()) > 0.0
    assert torch.isfinite(task.sampled_nll(student, torch.Generator().manual_seed(0)))
