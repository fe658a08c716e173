"""Images scaled by matrices: what torch's antialiased interpolation makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paretopress.core.resampling import fitted, fitted_feed, resized, scaled_side, weights


@pytest.mark.parametrize("size", [(6, 9), (5, 5), (12, 3), (20, 24)], ids=str)
def test_resized_is_what_antialiased_interpolation_makes(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, 12, 17, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    np.testing.assert_allclose(resized(images.numpy(), *size), wanted.numpy(), atol=1e-5)


def test_weights_of_each_pixel_sum_to_one() -> None:
    np.testing.assert_allclose(weights(224, 168).sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(("size", "share", "wanted"), [(224, 0.875, 196), (224, 0.75, 168), (3, 0.25, 1), (1, 0.25, 1), (10, 0.25, 3)])
def test_scaled_side_is_a_whole_number_of_pixels(size: int, share: float, wanted: int) -> None:
    assert scaled_side(size, share) == wanted


@pytest.mark.parametrize("shape", [("N", 3, 8, 8), ("N", 3, "H", "W"), (None, 3, None, None), ("N", 8)], ids=str)
def test_fitted_leaves_an_array_that_the_file_takes(shape: tuple[object, ...]) -> None:
    images = np.zeros((2, 3, 8, 8), np.float32)
    assert fitted(images, shape) is images


def test_fitted_feed_scales_images_alone() -> None:
    feed = {"image": np.ones((2, 3, 8, 8), np.float32), "tokens": np.ones((2, 5), np.int64)}
    found = fitted_feed(feed, [("image", ("N", 3, 6, 4)), ("tokens", ("N", 5))])
    assert found["image"].shape == (2, 3, 6, 4)
    np.testing.assert_allclose(found["image"], 1.0, atol=1e-6)
    assert found["tokens"] is feed["tokens"]
