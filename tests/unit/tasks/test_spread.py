"""How far scores are uncertain because the items are a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from paretopress.core.outcome import Metric, drop_interval
from paretopress.tasks.base import Scorer, Task
from paretopress.tasks.choose import task_scored_by
from paretopress.tasks.classification import Classification
from paretopress.tasks.detection import Detection
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation
from paretopress.tasks.spread import item_scores, paired_error, score_error

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def scored(task: Task, outputs: npt.NDArray[np.float32], targets: npt.NDArray[np.generic], batch: int = 64) -> Scorer:
    scorer = task.scorer()
    for start in range(0, len(targets), batch):
        scorer.update([outputs[start : start + batch]], targets[start : start + batch])
    return scorer


def answers(rng: np.random.Generator, items: int) -> Arrays:
    """Return logits (N, 4) and labels of which four in five are right."""
    labels = rng.integers(4, size=items)
    shown = np.where(rng.random(items) < 0.8, labels, rng.integers(4, size=items))
    return np.eye(4, dtype=np.float32)[shown], labels


def values(rng: np.random.Generator, items: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    wanted = rng.normal(size=(items, 1)).astype(np.float32)
    return (wanted + 0.4 * rng.normal(size=wanted.shape)).astype(np.float32), wanted


def pictures(rng: np.random.Generator, items: int) -> Arrays:
    """Return logits (N, 3, 6, 6) and labels; some pictures are harder than others."""
    labels = rng.integers(3, size=(items, 6, 6))
    wrong = rng.random((items, 6, 6)) < rng.uniform(0.0, 0.6, size=(items, 1, 1))
    shown = np.where(wrong, rng.integers(3, size=labels.shape), labels)
    return np.moveaxis(np.eye(3, dtype=np.float32)[shown], -1, 1), labels


def test_score_error_is_the_binomial_one_when_answers_are_counted() -> None:
    logits, labels = np.eye(2, dtype=np.float32)[[0] * 100], np.array([0] * 90 + [1] * 10)
    assert score_error(scored(Classification(), logits, labels)) == pytest.approx(math.sqrt(90.0 * 10.0 / 99.0))


def test_paired_error_counts_changed_items_when_models_agree_on_the_others() -> None:
    ours, theirs = np.repeat([100.0, 0.0], [90, 10]), np.repeat([100.0, 0.0, 100.0], [88, 10, 2])
    # +100 twice and -100 twice, and half an item more of each kind: sqrt(4 + 1) of 102 items
    assert paired_error(ours, theirs) == pytest.approx(100.0 * math.sqrt(5.0) / 102.0)
    assert paired_error(ours, theirs) == pytest.approx(2.19, abs=0.01)  # less than the 3.0 of one score, and than the 4.3 of two unpaired
    assert paired_error(ours, None) is paired_error(None, theirs) is paired_error(ours, np.zeros(0)) is None


def test_paired_error_is_that_of_differences_for_scores_by_degrees() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(30.0, 2.0, 50), rng.normal(30.0, 2.0, 50)
    assert paired_error(ours, theirs) == pytest.approx(float((ours - theirs).std(ddof=1)) / math.sqrt(50))


@pytest.mark.parametrize(("items", "lost", "won"), [(100, 0.01, 0.0), (100, 0.03, 0.01), (100, 0.1, 0.05), (2_000, 0.02, 0.01)])
def test_interval_of_a_drop_covers_the_truth_when_few_answers_change(items: int, lost: float, won: float) -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2_000):
        kinds = rng.multinomial(1, [lost, won, 1.0 - lost - won], size=items).argmax(axis=1)
        baseline, scores = np.where(kinds == 1, 0.0, 100.0), np.where(kinds == 0, 0.0, 100.0)
        interval = drop_interval(float(baseline.mean() - scores.mean()), paired_error(scores, baseline))
        assert interval is not None
        hits += interval[0] <= 100.0 * (lost - won) <= interval[1]
    assert hits >= 0.93 * 2_000


@pytest.mark.parametrize(
    ("task", "drawn"),
    [
        (Classification("F1"), answers),
        (Regression("R2"), values),
        (Regression("Spearman"), values),
        (Segmentation(), pictures),
        (task_scored_by(lambda found, wanted: float(np.abs(found - wanted).mean()), "regression", Metric("error", "mm", False)), values),
    ],
    ids=["F1", "R2", "Spearman", "mIoU", "function"],
)
def test_score_error_is_the_spread_over_resamples_when_no_mean(
    task: Task, drawn: Callable[[np.random.Generator, int], tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]]
) -> None:
    rng, items = np.random.default_rng(0), 300
    scores = [scored(task, *drawn(rng, items)).score() for _ in range(50)]
    errors = [score_error(scored(task, *drawn(rng, items))) for _ in range(2)]
    assert float(np.mean([error or 0.0 for error in errors])) == pytest.approx(float(np.std(scores)), rel=0.35)
    assert item_scores(scored(task, *drawn(rng, items))) is None


@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_score_error_is_in_the_unit_of_the_score_when_a_function_tells_it(factor: float) -> None:
    def task(by: float) -> Task:
        return task_scored_by(lambda found, wanted: by * float(np.abs(found - wanted).mean()), "regression", Metric("error", "", False))

    found, wanted = values(np.random.default_rng(0), 300)
    one, other = (score_error(scored(task(by), found, wanted)) for by in (1.0, factor))
    assert one is not None
    assert other == pytest.approx(factor * one)


def test_score_of_all_items_is_the_score_when_images_have_void_pixels() -> None:
    rng = np.random.default_rng(0)
    logits, labels = pictures(rng, 30)
    labels[rng.random(labels.shape) < 0.2] = 255
    scorer = scored(Segmentation(), logits, labels, batch=7)
    assert scorer.score_of(np.arange(30)) == pytest.approx(scorer.score(), rel=1e-5)  # type: ignore[attr-defined]


def test_score_of_all_photos_is_the_score_when_objects_are_found() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    scorer = Detection().scorer()
    for shift in (0.0, 1.0, 4.0):
        logits = torch.nn.functional.one_hot(torch.tensor([[1, 2]]), 3).float() * 8.0
        scorer.update(
            [logits.numpy(), (boxes + shift)[None].numpy()], np.array([[[0, 0, 10, 10, 1], [20, 20, 30, 30, 2]]], dtype=np.float32)
        )
    assert scorer.score_of(np.arange(3)) == pytest.approx(scorer.score())  # type: ignore[attr-defined]
    assert scorer.score_of(np.array([0, 0])) == pytest.approx(100.0)  # type: ignore[attr-defined]
    assert (score_error(scorer) or 0.0) > 0.0


def test_score_error_is_unknown_when_a_function_refuses_most_samples() -> None:
    def of_all_alone(found: npt.NDArray[np.generic], wanted: npt.NDArray[np.generic]) -> float:
        if len(found) < 300:
            raise ValueError("too few")
        return 1.0

    found, wanted = values(np.random.default_rng(0), 300)
    assert score_error(scored(task_scored_by(of_all_alone, "regression", Metric("x", "")), found, wanted)) is None
