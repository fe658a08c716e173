"""A module that scales its images, and the one that is lowered, which takes scaled ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from paretopress.compress.apply import compress_module
from paretopress.compress.resolution import Resize, resized_like, resolution_of, without_resize
from paretopress.core.plan import Plan
from paretopress.evaluators.macs import count_macs
from paretopress.intake.trace import Intake


def scaled(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def test_compressed_module_computes_what_the_model_does_of_scaled_images(intake: Intake, images: Tensor) -> None:
    module = compress_module(intake.module, intake.graph, Plan(resolution=0.75)).module
    torch.testing.assert_close(module(images), intake.module(scaled(images, 6)), atol=1e-5, rtol=1e-4)
    assert (resolution_of(module), resolution_of(intake.module)) == (0.75, 1.0)


def test_without_resize_takes_scaled_images_and_costs_less(intake: Intake, images: Tensor) -> None:
    plan = Plan(kept={"block2.conv1": 8}, resolution=0.5)
    module = compress_module(intake.module, intake.graph, plan).module
    bare, example = without_resize(module, images)
    assert isinstance(example, Tensor)
    assert example.shape == (6, 3, 4, 4)
    torch.testing.assert_close(bare(example), module(images))
    assert not any(isinstance(part, Resize) for part in bare.modules())
    assert resolution_of(module) == 0.5  # it is a copy
    whole = compress_module(intake.module, intake.graph, Plan(kept={"block2.conv1": 8})).module
    assert count_macs(bare, example).macs < 0.3 * count_macs(whole, images).macs


def test_without_resize_leaves_a_module_of_full_resolution(intake: Intake, images: Tensor) -> None:
    assert without_resize(intake.module, images) == (intake.module, images)


def test_weights_of_a_scaling_module_are_those_of_the_model(intake: Intake) -> None:
    module = compress_module(intake.module, intake.graph, Plan(resolution=0.5)).module
    assert module.state_dict().keys() == intake.module.state_dict().keys()


def test_resized_like_scales_as_another_does(intake: Intake, images: Tensor) -> None:
    student = compress_module(intake.module, intake.graph, Plan(kept={"block2.conv1": 8}, resolution=0.5)).module
    teacher = resized_like(intake.module, student)
    torch.testing.assert_close(teacher(images), intake.module(scaled(images, 4)), atol=1e-5, rtol=1e-4)
    assert resolution_of(resized_like(intake.module, intake.module)) == 1.0
