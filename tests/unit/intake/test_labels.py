from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from paretopress.intake.checks import check_data
from paretopress.intake.datasets.data import Data
from paretopress.intake.labels import fit_labels
from paretopress.tasks.agreement import Agreement
from paretopress.tasks.base import Task
from paretopress.tasks.binary import MaskSegmentation, YesOrNo
from paretopress.tasks.choose import task_by
from paretopress.tasks.classification import Classification
from paretopress.tasks.label_forms import OneHot

COUNT = 12
X = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Inputs(Dataset[Any]):
    """Items that are inputs alone."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Tensor:
        return X[index]


def net(outputs: int, *, flat: bool = True) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, outputs, 3, padding=1)]
    return nn.Sequential(*layers, *([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if flat else [])).eval()


def data(targets: Tensor | None, metric: str) -> Data:
    split: Any = Inputs() if targets is None else TensorDataset(X, targets)
    return Data(split, split, split, task=task_by(metric))


MULTI = (torch.rand(COUNT, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
YES = torch.arange(COUNT) % 2


@pytest.mark.parametrize(
    ("targets", "metric", "model", "task"),
    [
        pytest.param(torch.arange(COUNT) % 4, "top-1", net(4), Classification("top-1"), id="classes"),
        pytest.param(torch.eye(4)[torch.arange(COUNT) % 4], "top-1", net(4), OneHot(Classification("top-1")), id="one-hot"),
        pytest.param(MULTI, "F1", net(4), YesOrNo("F1"), id="several labels"),
        pytest.param(MULTI, "mAP", net(4), YesOrNo("mAP"), id="several labels by precision"),
        pytest.param(YES, "AUROC", net(1), YesOrNo("AUROC"), id="one logit"),
        pytest.param(YES[:, None].float(), "top-1", net(1), YesOrNo("top-1"), id="one logit and a column of labels"),
        pytest.param(YES, "AUROC", net(2), Classification("AUROC"), id="two classes"),
        pytest.param((X[:, 0] > 0).long(), "mIoU", net(1, flat=False), MaskSegmentation(), id="mask"),
        pytest.param(None, "top-1", net(4), Agreement("agreement"), id="no labels"),
        pytest.param(None, "top-1", net(4, flat=False), Agreement("SQNR"), id="no labels and no logits"),
        pytest.param(torch.arange(COUNT) % 4, "agreement", net(4), Agreement("agreement"), id="labels that do not count"),
    ],
)
def test_fit_labels_finds_the_task_of(targets: Tensor | None, metric: str, model: nn.Module, task: Task) -> None:
    fitted, notes = fit_labels(data(targets, metric), model)
    assert fitted.task == task
    assert bool(notes) is (task != task_by(metric))
    check_data(fitted, model)


def test_fit_labels_gives_items_without_labels_the_outputs_of_the_original() -> None:
    model = net(4)
    fitted, _ = fit_labels(data(None, "top-1"), model)
    x, target = fitted.val[3]
    with torch.no_grad():
        torch.testing.assert_close(target, model(X[3:4])[0])
    assert torch.equal(x, X[3])


def test_fit_labels_leaves_data_that_cannot_be_read_to_the_check() -> None:
    class Broken(Inputs):
        def __getitem__(self, index: int) -> Tensor:
            raise OSError("no such photo")

    given = data(None, "top-1")
    broken = Data(given.train, Broken(), given.test, task=given.task)
    assert fit_labels(broken, net(4)) == (broken, ())
