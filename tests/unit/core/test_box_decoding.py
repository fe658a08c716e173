from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou

from paretopress.core.box_decoding import decode_ssd, decode_yolo, decode_yolox, decoder_of, overlaps, sigmoid, suppressed

RNG = np.random.default_rng(0)


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_decode_yolo_reads_distances_from_bins() -> None:
    level = np.full((1, 4 * 16 + 2, 4, 4), -20.0)
    for side, cells in enumerate((1, 2, 3, 1)):  # left, up, right, down of the cell in row 1, column 2: centre (2.5, 1.5)
        level[0, side * 16 + cells, 1, 2] = 20.0
    level[0, 64, 1, 2] = logit(0.9)
    boxes, scores = decode_yolo([level], (32, 32))
    assert boxes.shape == (1, 16, 4)
    assert scores.shape == (1, 16, 2)
    np.testing.assert_allclose(boxes[0, 6], [8 * 1.5, 8 * -0.5, 8 * 5.5, 8 * 2.5], atol=1e-3)
    assert scores[0, 6, 0] == pytest.approx(0.9)


def test_decode_yolo_takes_what_the_model_decoded() -> None:
    decoded = np.zeros((1, 6, 3))
    decoded[0, :, 1] = [10.0, 20.0, 4.0, 8.0, 0.3, 0.7]
    boxes, scores = decode_yolo([decoded], (32, 32))
    assert boxes[0, 1].tolist() == [8.0, 16.0, 12.0, 24.0]
    assert scores[0, 1].tolist() == [0.3, 0.7]


def test_decode_yolox_reads_offsets_in_cells() -> None:
    level = np.zeros((1, 7, 4, 4))
    level[0, :, 1, 2] = [0.5, 0.25, np.log(2.0), np.log(3.0), logit(0.8), logit(0.5), logit(0.25)]
    boxes, scores = decode_yolox([level], (32, 32))
    centre = (8 * 2.5, 8 * 1.25)
    np.testing.assert_allclose(boxes[0, 6], [centre[0] - 8, centre[1] - 12, centre[0] + 8, centre[1] + 12], rtol=1e-6)
    np.testing.assert_allclose(scores[0, 6], [0.4, 0.2], rtol=1e-6)


@pytest.mark.parametrize("swapped", [False, True], ids=["offsets first", "logits first"])
def test_decode_ssd_reads_boxes_as_torchvision_does(*, swapped: bool) -> None:
    places = RNG.uniform(0, 200, (6, 2))
    anchors = np.concatenate([places, places + RNG.uniform(5, 90, (6, 2))], axis=1)
    offsets, logits = RNG.normal(0, 9, (2, 6, 4)), RNG.normal(0, 2, (2, 6, 3))
    boxes, scores = decoder_of("ssd", anchors.tolist())([logits, offsets] if swapped else [offsets, logits], (320, 320))
    wanted = [BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(torch.from_numpy(one), torch.from_numpy(anchors)) for one in offsets]
    np.testing.assert_allclose(boxes, torch.stack(wanted).numpy(), rtol=1e-6)
    np.testing.assert_allclose(scores, torch.from_numpy(logits).softmax(2)[..., 1:].numpy(), rtol=1e-6)


def test_decode_ssd_says_that_the_images_are_of_another_size() -> None:
    with pytest.raises(ValueError, match="5 default boxes, but 6 candidates"):
        decode_ssd([np.zeros((1, 6, 4)), np.zeros((1, 6, 3))], (96, 96), np.zeros((5, 4)))


def test_suppressed_keeps_what_torchvision_keeps() -> None:
    places = RNG.uniform(0, 50, (200, 2))
    boxes = np.concatenate([places, places + RNG.uniform(5, 30, (200, 2))], axis=1).astype(np.float32)
    scores = RNG.uniform(0, 1, (200, 3)).astype(np.float32) * (RNG.uniform(size=(200, 3)) > 0.6)
    found, values, kinds = suppressed(boxes, scores, 0.05, 0.5, 100)
    candidates, labels = (torch.from_numpy(scores) > 0.05).nonzero(as_tuple=True)
    flat = torch.from_numpy(scores)[candidates, labels]
    kept = batched_nms(torch.from_numpy(boxes)[candidates], flat, labels, 0.5)[:100]
    np.testing.assert_allclose(values, flat[kept].numpy())
    np.testing.assert_array_equal(kinds, labels[kept].numpy())
    np.testing.assert_allclose(found, boxes[candidates[kept].numpy()])


def test_overlaps_are_torchvision_s() -> None:
    places = RNG.uniform(0, 50, (20, 2))
    boxes = np.concatenate([places, places + RNG.uniform(5, 30, (20, 2))], axis=1)
    np.testing.assert_allclose(
        overlaps(boxes[:8], boxes[8:]), box_iou(torch.from_numpy(boxes[:8]), torch.from_numpy(boxes[8:])).numpy(), rtol=1e-6
    )


def test_suppressed_returns_nothing_when_nothing_scores() -> None:
    found, values, kinds = suppressed(np.zeros((4, 4)), np.zeros((4, 2)), 0.05, 0.5, 10)
    assert (found.shape, values.shape, kinds.shape) == ((0, 4), (0,), (0,))


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise"):
        assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
