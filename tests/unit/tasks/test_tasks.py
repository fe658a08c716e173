from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from paretopress.core.outcome import Metric
from paretopress.errors import ConfigError
from paretopress.tasks.base import Task, distillation_loss
from paretopress.tasks.choose import TASKS, task_by, task_scored_by
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])


def score(task: Task, outputs: torch.Tensor, targets: torch.Tensor, batch: int = 2) -> float:
    scorer = task.scorer()
    for found, wanted in zip(outputs.split(batch), targets.split(batch), strict=True):
        scorer.update([found.numpy()], wanted.numpy())
    return scorer.score()


def test_top_1_and_top_5_count_items_over_batches() -> None:
    assert score(Classification("top-1"), LOGITS, LABELS) == 50.0
    wide = torch.arange(8.0).repeat(4, 1)  # the highest five are 3 to 7
    assert score(Classification("top-5"), wide, torch.tensor([2, 3, 7, 0])) == 50.0
    assert score(Classification("top-5"), LOGITS, LABELS) == 100.0


def test_f1_is_the_mean_over_the_classes() -> None:
    # class 0: precision 1/2, recall 1; class 1: 0 and 0; class 2: precision 1, recall 1/2
    assert score(Classification("F1"), LOGITS, LABELS) == pytest.approx(100.0 * (2 / 3 + 0.0 + 2 / 3) / 3)


def test_miou_is_the_mean_over_the_classes_that_occur_without_void_pixels() -> None:
    classes = torch.tensor([[[0, 0], [1, 1]], [[0, 1], [1, 0]]])
    logits = torch.nn.functional.one_hot(classes, 4).movedim(-1, 1).float()
    labels = torch.tensor([[[0, 1], [1, 255]], [[0, 1], [1, 0]]])
    # class 0: 3 shared of 4; class 1: 3 of 4; classes 2 and 3 do not occur
    assert score(Segmentation(), logits, labels, batch=1) == pytest.approx(75.0)


def test_spearman_and_r2_are_100_for_what_they_ask_and_no_more() -> None:
    wanted = torch.arange(6.0)
    assert score(Regression("Spearman"), wanted.exp().unsqueeze(1), wanted) == pytest.approx(100.0)
    assert score(Regression("R2"), wanted.unsqueeze(1), wanted) == pytest.approx(100.0)
    assert score(Regression("R2"), torch.full((6, 1), 2.5), wanted) == pytest.approx(0.0)
    assert score(Regression("Spearman"), torch.ones(6, 1), wanted) == 0.0


@pytest.mark.parametrize("task", [Classification(), Segmentation(), Regression()])
def test_scorers_raise_when_there_was_no_batch(task: Task) -> None:
    with pytest.raises(ValueError, match="at least one"):
        task.scorer().score()


SHAPES = {"classification": ((4, 3), (4,)), "segmentation": ((4, 3, 5, 5), (4, 5, 5)), "regression": ((4, 2), (4, 2))}


@pytest.mark.parametrize("task", [Classification(), Segmentation(), Regression()], ids=list(SHAPES))
def test_loss_and_divergence_are_least_for_the_teachers_own_outputs(task: Task, request: pytest.FixtureRequest) -> None:
    shape, targets_shape = SHAPES[request.node.callspec.id]
    torch.manual_seed(0)
    teacher = (torch.randn(shape), torch.randn(4, 7))
    targets = torch.randn(targets_shape) if isinstance(task, Regression) else torch.randint(0, 3, targets_shape)
    assert task.check(teacher, targets) == ""
    student = tuple((part + 0.5 * torch.randn(part.shape)).requires_grad_() for part in teacher)
    same = task.loss(teacher, teacher, targets, temperature=2.0, alpha=1.0)
    other = task.loss(student, teacher, targets, temperature=2.0, alpha=1.0)
    assert float(same) == pytest.approx(0.0, abs=1e-5)
    assert float(other.detach()) > 0.01
    other.backward()
    assert all(part.grad is not None and float(part.grad.abs().sum()) > 0.0 for part in student)  # further outputs are learnt too
    assert float(task.divergence(teacher, teacher)) == pytest.approx(0.0, abs=1e-5)
    assert float(task.divergence(student, teacher).detach()) > 0.01


@pytest.mark.parametrize("task", [Classification(), Segmentation(), Regression()], ids=list(SHAPES))
def test_surprise_repeats_for_a_seed_and_has_gradients(task: Task, request: pytest.FixtureRequest) -> None:
    outputs = [torch.randn(shape, requires_grad=True) for shape in (SHAPES[request.node.callspec.id][0], (4, 7))]
    first, again = (task.sampled_nll([*outputs, torch.arange(4)], torch.Generator().manual_seed(3)) for _ in range(2))
    assert float(first.detach()) == float(again.detach())
    first.backward()
    assert all(part.grad is not None and float(part.grad.abs().sum()) > 0.0 for part in outputs)


def test_void_pixels_count_for_nothing_in_the_loss() -> None:
    student = torch.randn(1, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [2, 255]]])
    whole = Segmentation().loss((student,), (student,), labels, temperature=1.0, alpha=0.0)
    logits = student.movedim(1, -1).reshape(-1, 3)[:3]
    torch.testing.assert_close(whole, torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])))


@pytest.mark.parametrize(
    ("task", "shape", "targets", "message"),
    [
        (Classification(), (4, 3, 2, 2), torch.zeros(4, dtype=torch.int64), "logits"),
        (Classification(), (4, 3), torch.zeros(4), "one integer an item"),
        (Segmentation(), (4, 3), torch.zeros(4, dtype=torch.int64), r"\(N, classes, H, W\)"),
        (Segmentation(), (4, 3, 2, 2), torch.zeros(4, 2, 2), "integers"),
        (Regression(), (4, 3), torch.zeros(4), "one shape"),
    ],
)
def test_check_says_what_does_not_fit(task: Task, shape: tuple[int, ...], targets: torch.Tensor, message: str) -> None:
    assert re.search(message, task.check((torch.zeros(shape),), targets))


def test_task_by_knows_every_metric_by_name_in_any_case() -> None:
    for name in TASKS.names():
        assert task_by(name.upper()).metric.name == name
    with pytest.raises(ConfigError, match="must be one of top-1, top-5, F1, mIoU, mAP, Spearman, R2"):
        task_by("speed")


def test_task_scored_by_names_the_function_and_its_line_when_it_raises() -> None:
    def of_tensors(outputs: np.ndarray, targets: np.ndarray) -> float:
        return float(torch.log10(np.float32(outputs.mean() - targets.mean())))

    task = task_scored_by(of_tensors, "regression", Metric("psnr", "dB"))
    with pytest.raises(ConfigError, match=r"metric psnr must return a number, but it raised TypeError.*test_tasks.py:\d+"):
        score(task, torch.ones(3, 1), torch.zeros(3, 1))


def test_task_scored_by_keeps_the_negative_where_lower_is_better() -> None:
    metric = Metric("error", "mm", higher_is_better=False)
    task = task_scored_by(lambda found, wanted: float(np.abs(found[:, 0] - wanted).mean()), "regression", metric)
    found = score(task, torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0, 8.0]))
    assert found == -1.0
    assert metric.shown(found) == "1.00 mm"
    with pytest.raises(ConfigError, match="must be one of classification, segmentation, detection, regression"):
        task_scored_by(lambda *_: 0.0, "ranking", metric)


def test_distillation_loss_has_no_hard_part_when_alpha_is_one() -> None:
    student, labels = torch.randn(5, 4), torch.full((5,), 3)
    assert float(distillation_loss(student, student, labels, temperature=4.0, alpha=1.0)) == pytest.approx(0.0, abs=1e-6)


BOXES = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]]])
OBJECTS = torch.tensor([[[0.0, 0.0, 10.0, 10.0, 1.0], [20.0, 20.0, 30.0, 30.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])


def seen(labels: list[int], sure: float = 8.0) -> torch.Tensor:
    """Return logits (1, candidates, 3) that name these labels; the first is the surest."""
    logits = torch.nn.functional.one_hot(torch.tensor([labels]), 3).float()
    return logits * (sure - torch.arange(float(len(labels)))[None, :, None] / 10.0)


def average_precision(logits: torch.Tensor, boxes: torch.Tensor = BOXES) -> float:
    scorer = Detection().scorer()
    scorer.update([logits.numpy(), boxes.numpy()], OBJECTS.numpy())
    return scorer.score()


def test_map_is_100_when_each_object_is_found_once() -> None:
    assert average_precision(seen([1, 0, 2, 0])) == pytest.approx(100.0)


def test_map_counts_a_box_once_that_overlaps_a_better_one_of_its_class() -> None:
    assert average_precision(seen([1, 1, 2, 0])) == pytest.approx(100.0)


def test_map_is_the_mean_over_the_classes_that_occur() -> None:
    assert average_precision(seen([1, 0, 0, 0])) == pytest.approx(50.0)
    assert average_precision(seen([1, 0, 0, 2])) == pytest.approx(50.0)  # where there is none


def test_map_falls_with_the_overlap() -> None:
    shifted = BOXES + torch.tensor([2.0, 0.0, 2.0, 0.0])  # overlaps of two thirds: 4 of the 10 thresholds, 0.5 to 0.65
    assert average_precision(seen([1, 0, 2, 0]), shifted) == pytest.approx(40.0)


def test_detection_loss_grows_with_the_distance_from_the_teacher() -> None:
    task, same = Detection(), [seen([1, 0, 2, 0]), BOXES]
    wanted = task.loss(same, same, OBJECTS, temperature=2.0, alpha=0.9)
    for other in ([seen([0, 0, 2, 0]), BOXES], [seen([1, 0, 2, 0]), BOXES + 3.0], [seen([1, 0, 1, 0]), BOXES]):
        assert task.loss(other, same, OBJECTS, temperature=2.0, alpha=0.9) > wanted + 0.01
        assert task.divergence(other, same) > 0.01
    assert float(task.divergence(same, same)) == pytest.approx(0.0, abs=1e-6)
    far = [seen([1, 0, 2, 0]), BOXES + torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None] * 30.0]  # boxes of the background alone
    assert float(task.divergence(far, same)) < float(task.divergence([same[0], BOXES + 30.0], same)) / 10.0


def test_detection_labels_are_those_of_objects_that_boxes_overlap() -> None:
    task, same = Detection(), [seen([1, 0, 2, 0]), BOXES]
    by_labels = [task.loss([seen(labels), BOXES], same, OBJECTS, temperature=1.0, alpha=0.0) for labels in ([1, 1, 2, 0], [1, 0, 2, 0])]
    assert by_labels[0] < by_labels[1]  # the second box overlaps the first object by more than half, too


@pytest.mark.parametrize(
    ("outputs", "targets", "match"),
    [
        ([seen([1, 0, 2, 0])], OBJECTS, "logits and boxes, but got 1"),
        ([seen([1, 0, 2, 0]), BOXES[:, :3]], OBJECTS, "but got (1, 4, 3) and (1, 3, 4)"),
        ([seen([1, 0, 2, 0]), BOXES], OBJECTS[..., :4], "but got (1, 3, 4)"),
    ],
)
def test_detection_check_says_what_is_wrong(outputs: list[torch.Tensor], targets: torch.Tensor, match: str) -> None:
    assert match in Detection().check(outputs, targets)
    assert Detection().check([seen([1, 0, 2, 0]), BOXES], OBJECTS) == ""
