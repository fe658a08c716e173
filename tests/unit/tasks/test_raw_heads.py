from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from paretopress.errors import ConfigError
from paretopress.tasks.choose import task_by_decoder
from paretopress.tasks.detection import best_of
from paretopress.tasks.raw_heads import RawDetection

SIZE = (32, 32)
OBJECTS = torch.tensor([[[12.0, -4.0, 44.0, 20.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]]])


def seen(score: float = 4.0, bins: int = 16) -> Tensor:
    """Return one map of 4x4 cells with one object of the first of two classes, in row 1 and column 2."""
    level = torch.full((1, 4 * bins + 2, 4, 4), -8.0)
    for side, cells in enumerate((1, 2, 3, 1)):
        level[0, side * bins + cells, 1, 2] = 8.0
    level[0, 4 * bins, 1, 2] = score
    return level


def score(task: RawDetection, outputs: list[Tensor], targets: Tensor) -> float:
    scorer = task.scorer()
    scorer.update([output.numpy() for output in outputs], targets.numpy())
    return scorer.score()


def test_map_of_decoded_boxes_is_100_where_they_are_right_and_0_elsewhere() -> None:
    task = RawDetection("yolo", SIZE)
    assert score(task, [seen()], OBJECTS) == pytest.approx(100.0)
    assert score(task, [seen()], OBJECTS + torch.tensor([20.0, 20.0, 20.0, 20.0, 0.0])) == 0.0


def test_map_50_forgives_what_map_does_not() -> None:
    moved = OBJECTS + torch.tensor([4.0, 0.0, 4.0, 0.0, 0.0])  # overlap 28 / 36
    assert score(RawDetection("yolo", SIZE, "mAP50"), [seen()], moved) == pytest.approx(100.0)
    assert score(RawDetection("yolo", SIZE, "mAP"), [seen()], moved) == pytest.approx(60.0)  # at 0.5 to 0.75


@pytest.mark.parametrize("decoder", ["yolo", "yolox"])
def test_divergence_is_zero_for_the_same_and_grows_with_scores_and_boxes(decoder: str) -> None:
    task = RawDetection(decoder, SIZE)
    wanted = seen() if decoder == "yolo" else torch.randn(2, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(task.divergence([wanted], [wanted])) == pytest.approx(0.0, abs=1e-5)
    near, far = (float(task.divergence([wanted + off * torch.arange(wanted.shape[1]).view(1, -1, 1, 1)], [wanted])) for off in (0.01, 0.1))
    assert 0.0 < near < far


def ssd_heads() -> list[Tensor]:
    dice = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 4, generator=dice), torch.randn(2, 5, 3, generator=dice)]


def test_divergence_of_ssd_heads_grows_with_either_part() -> None:
    task, (offsets, logits) = RawDetection("ssd", SIZE), ssd_heads()
    assert float(task.divergence([offsets, logits], [offsets, logits])) == pytest.approx(0.0, abs=1e-6)
    for near, far in (([offsets + 0.01, logits], [offsets + 0.1, logits]), ([offsets, logits * 1.01], [offsets, logits * 1.1])):
        assert 0.0 < float(task.divergence(near, [offsets, logits])) < float(task.divergence(far, [offsets, logits]))


def test_boxes_of_candidates_that_show_the_background_weigh_nothing() -> None:
    task, (offsets, logits) = RawDetection("ssd", SIZE), ssd_heads()
    logits[..., 0] = 50.0
    assert float(task.divergence([offsets + 1.0, logits], [offsets, logits])) == pytest.approx(0.0, abs=1e-6)


def test_check_of_an_ssd_asks_for_its_default_boxes() -> None:
    assert "a tensor `anchors` (candidates, 4)" in RawDetection("ssd", SIZE).check(ssd_heads(), OBJECTS)
    anchors = ((0.0, 0.0, 8.0, 8.0),) * 5
    task = RawDetection("ssd", SIZE, anchors=anchors)
    assert task.check(ssd_heads(), OBJECTS.expand(2, -1, -1)) == ""
    assert task.to_json() == {"decoder": "ssd", "size": [32, 32], "classes": [], "anchors": [[0.0, 0.0, 8.0, 8.0]] * 5}


def test_loss_teaches_a_student_the_heads_of_the_original() -> None:
    task, student = RawDetection("yolo", SIZE), torch.zeros_like(seen()).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss([student], [seen()], OBJECTS, temperature=4.0, alpha=0.5).backward()
        optimizer.step()
    assert score(task, [student.detach()], OBJECTS) == pytest.approx(100.0)


def test_a_function_of_the_user_s_is_a_decoder_too() -> None:
    def decode(outputs: object, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        assert size == SIZE
        return OBJECTS[:, :1, :4].numpy(), np.array([[[0.9, 0.0]]])

    task = task_by_decoder("mine.py:decode", decode, "mAP50")
    assert isinstance(task, RawDetection)
    sized = RawDetection(task.decoder, SIZE, task.by, task.decode)
    assert sized.check([torch.zeros(1, 3)], OBJECTS) == ""
    assert score(sized, [torch.zeros(1, 3)], OBJECTS) == pytest.approx(100.0)
    assert float(sized.divergence([torch.ones(1, 3)], [torch.arange(3.0)[None]])) > 0.0


def test_check_names_the_decoder_that_cannot_read_the_outputs() -> None:
    assert "decoder yolo must read the outputs (2, 3)" in RawDetection("yolo", SIZE).check([torch.zeros(2, 3)], OBJECTS)


def test_task_by_decoder_lists_the_valid_names() -> None:
    with pytest.raises(ConfigError, match="one of yolo, yolox, ssd"):
        task_by_decoder("retina", None, "mAP")
    with pytest.raises(ConfigError, match="scored by mAP or mAP50"):
        task_by_decoder("yolo", None, "F1")


@pytest.mark.parametrize("spread", [20.0, 400.0], ids=["most overlap", "few overlap"])
def test_the_best_of_many_candidates_are_those_that_all_together_leave(spread: float) -> None:
    dice = torch.Generator().manual_seed(0)
    places = torch.rand(900, 2, generator=dice) * spread
    boxes = torch.cat([places, places + 10.0 + 20.0 * torch.rand(900, 2, generator=dice)], 1)
    scores = torch.rand(900, 2, generator=dice)
    found = best_of(scores, boxes, 0.001, 0.5)
    flat, order = scores.flatten().sort(descending=True, stable=True)
    candidates, kinds = order[:1000] // 2, order[:1000] % 2
    kept = batched_nms(boxes[candidates], flat[:1000], kinds, 0.5)[:100]
    assert torch.equal(found["scores"], flat[kept])
    assert torch.equal(found["boxes"], boxes[candidates[kept]])
    assert torch.equal(found["labels"], kinds[kept] + 1)
