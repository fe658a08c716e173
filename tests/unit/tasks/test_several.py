"""Several labelled outputs: scores and losses are weighted means of those of each output alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from paretopress.errors import ConfigError, DataError
from paretopress.intake.datasets.data import Data
from paretopress.intake.datasets.several_labels import AskedOutput, with_several_labels
from paretopress.tasks.base import Outputs
from paretopress.tasks.binary import YesOrNo
from paretopress.tasks.classification import Classification
from paretopress.tasks.regression import Regression
from paretopress.tasks.several import Labelled, SeveralOutputs, labels_apart, labels_together
from paretopress.tasks.spread import item_scores, score_error

BREED = Labelled(0, Classification(), 3.0, (), whole=True)
AGE = Labelled(2, Regression("R2"), 1.0, (), whole=False)
TASK = SeveralOutputs((BREED, AGE))


def batch(count: int = 40) -> tuple[list[Tensor], Tensor]:
    """Return outputs (breed, something without a label, age) and rows of labels."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(count, *shape, generator=generator) for shape in ((5,), (3,), (1,))]
    labels = torch.stack([torch.randint(0, 5, (count,), generator=generator).float(), torch.rand(count, generator=generator)], dim=1)
    return outputs, labels


def scored(task: Any, outputs: Outputs, labels: Tensor) -> Any:
    scorer = task.scorer()
    scorer.update([output.numpy() for output in outputs], labels.numpy())
    return scorer


def test_labels_come_apart_as_they_were_put_together() -> None:
    masks = Labelled(1, Classification(), 1.0, (2, 3), whole=True)
    rows = torch.stack([labels_together([torch.tensor(4), torch.arange(6).reshape(2, 3), torch.tensor(0.5)]) for _ in range(2)])
    first, second, third = labels_apart((BREED, masks, AGE), rows)
    assert (first.tolist(), second[1].tolist(), third.tolist()) == ([4, 4], [[0, 1, 2], [3, 4, 5]], [0.5, 0.5])
    assert (first.dtype, second.dtype, third.dtype) == (torch.int64, torch.int64, torch.float32)


def test_score_is_the_weighted_mean_of_each_output_s() -> None:
    outputs, labels = batch()
    breed = scored(Classification(), outputs[:1], labels[:, 0].long()).score()
    age = scored(Regression("R2"), outputs[2:], labels[:, 1]).score()
    scorer = scored(TASK, outputs, labels)
    assert scorer.score() == pytest.approx(0.75 * breed + 0.25 * age)
    assert TASK.metric.name == "mean of top-1 and R2"
    assert scorer.items == 40
    assert (score_error(scorer) or 0.0) > 0.0


def test_item_scores_are_known_where_every_metric_has_them() -> None:
    outputs, labels = batch()
    both = SeveralOutputs((BREED, Labelled(1, Classification(), 1.0, (), whole=True)))
    labels[:, 1] = labels[:, 0] % 3
    scores = item_scores(scored(both, outputs, labels))
    assert scores is not None
    assert scores.mean() == pytest.approx(scored(both, outputs, labels).score())
    assert item_scores(scored(TASK, outputs, labels)) is None


def test_losses_are_weighted_and_other_outputs_follow_the_teacher() -> None:
    outputs, labels = batch()
    teacher = [output + 0.1 * torch.randn(output.shape, generator=torch.Generator().manual_seed(1)) for output in outputs]
    settings = {"temperature": 2.0, "alpha": 0.5}
    breed = Classification().loss(outputs[:1], teacher[:1], labels[:, 0].long(), **settings)
    age = Regression("R2").loss(outputs[2:], teacher[2:], labels[:, 1], **settings)
    held = (outputs[1] - teacher[1]).square().mean() / teacher[1].var()
    torch.testing.assert_close(TASK.loss(outputs, teacher, labels, **settings), 0.75 * breed + 0.25 * age + held)
    assert float(TASK.divergence(outputs, outputs)) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(TASK.sampled_nll(outputs, torch.Generator().manual_seed(0)))


def test_check_names_the_output_that_does_not_fit() -> None:
    outputs, labels = batch()
    assert TASK.check(outputs, labels) == ""
    assert TASK.check([outputs[0], outputs[1], torch.randn(40, 5, 2)], labels).endswith("at output 2")


class Pets(Dataset[Any]):
    """Photos with a breed, an age, and whether a pet is asleep: as a tuple, or as a dict."""

    def __init__(self, *, named: bool) -> None:
        self.named = named

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> tuple[Tensor, object]:
        labels = {"breed": index % 5, "asleep": float(index % 2), "age": 0.5 * index}
        return torch.full((3, 8, 8), float(index)), labels if self.named else tuple(labels.values())


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.breed, self.asleep, self.age = nn.Linear(3, 5), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = x.mean((2, 3))
        return {"breed": self.breed(x), "asleep": self.asleep(x), "age": self.age(x)}


def asked(*outputs: str | int) -> list[AskedOutput]:
    tasks = (Classification(), Classification("F1"), Regression("R2"))
    return [AskedOutput(output, task, 1.0) for output, task in zip(outputs, tasks, strict=False)]


@pytest.mark.parametrize("named", [True, False])
def test_data_with_several_labels_has_rows_and_a_task_for_each_output(named: bool) -> None:
    pets = Pets(named=named)
    data = with_several_labels(Data(pets, pets, pets), asked("breed", "asleep", "age"), Heads())
    assert isinstance(data.task, SeveralOutputs)
    assert [type(part.task) for part in data.task.parts] == [Classification, YesOrNo, Regression]
    assert [part.whole for part in data.task.parts] == [True, False, False]
    x, labels = data.val[3]
    np.testing.assert_array_equal(labels, [3.0, 1.0, 1.5])
    assert x.shape == (3, 8, 8)


class Coloured(Pets):
    """They have a colour, which no output tells."""

    def __getitem__(self, index: int) -> tuple[Tensor, object]:
        x, labels = super().__getitem__(index)
        assert isinstance(labels, dict)
        return x, labels | {"colour": 1}


def test_data_with_several_labels_says_what_an_item_lacks() -> None:
    pets = Pets(named=False)
    with pytest.raises(DataError, match="a label for each of the outputs breed, asleep, but got"):
        with_several_labels(Data(pets, pets, pets), asked("breed", "asleep"), Heads())


def test_data_with_several_labels_says_what_the_model_lacks() -> None:
    pets = Coloured(named=True)
    with pytest.raises(ConfigError, match="must be one of breed, asleep, age, or its place from 0 on, but got 'colour'"):
        with_several_labels(Data(pets, pets, pets), asked("breed", "colour"), Heads())
