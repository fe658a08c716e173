from __future__ import annotations

import torch

from paretopress.intake.datasets.images import Augmentation, Images, Normalisation

PLAIN = Normalisation(scale=1.0, mean=(0.0,), std=(1.0,))


def test_normalisation_scales_each_channel_when_there_are_two() -> None:
    x = Normalisation(scale=1 / 10, mean=(0.5, 1.0), std=(0.5, 2.0)).apply(torch.tensor([[[[10]], [[50]]]], dtype=torch.uint8))
    assert x.dtype == torch.float32
    assert torch.allclose(x, torch.tensor([[[[1.0]], [[2.0]]]]))


def test_images_returns_raw_pixels_when_normalisation_is_plain() -> None:
    pixels = torch.arange(12).view(3, 1, 2, 2).to(torch.uint8)
    images = Images(pixels, torch.tensor([5, 6, 7]), PLAIN)
    x, label = images[1]
    assert x.tolist() == [[[4.0, 5.0], [6.0, 7.0]]]
    assert (label, type(label)) == (6, int)
    assert [label for _, label in images.__getitems__([2, 0])] == [7, 5]


def test_images_leaves_its_pixels_as_they_are_when_items_are_changed() -> None:
    pixels = torch.ones(2, 1, 2, 2)
    images = Images(pixels, torch.tensor([0, 1]), PLAIN)
    images[0][0].zero_()
    assert pixels.min() == 1


def test_augmentation_shifts_each_image_on_its_own_when_asked() -> None:
    pixels = torch.zeros(64, 2, 5, 6)
    pixels[:, 1, 2, 3] = 9
    torch.manual_seed(0)
    places = Augmentation(shift=1).apply(pixels).nonzero()
    assert len(places) == 64
    assert set(places[:, 1].tolist()) == {1}
    assert set(places[:, 2].tolist()) == {1, 2, 3}
    assert set(places[:, 3].tolist()) == {2, 3, 4}


def test_augmentation_mirrors_columns_when_flip_is_certain() -> None:
    pixels = torch.arange(6.0).view(1, 1, 2, 3)
    assert Augmentation(flip=1.0).apply(pixels).tolist() == [[[[2, 1, 0], [5, 4, 3]]]]
    assert Augmentation().apply(pixels).equal(pixels)


def test_images_augments_when_told_to() -> None:
    images = Images(torch.arange(6.0).view(1, 1, 2, 3), torch.tensor([0]), PLAIN, augmentation=Augmentation(flip=1.0))
    assert images[0][0].tolist() == [[[2, 1, 0], [5, 4, 3]]]
