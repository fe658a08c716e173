from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from paretopress.compress.apply import compress_module
from paretopress.compress.recover.features import OutputsAndFeatures, check_layers, feature_loss, outputs_and_features
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.recipe import Recipe
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError
from paretopress.intake.trace import take_in


def read_by(module: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    return outputs_and_features(module, [name], [x])[1][name]


def test_features_are_what_the_layers_read(tiny: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        outputs, read = outputs_and_features(tiny, ["block1.conv1", "gone"], [x])
        torch.testing.assert_close(outputs[0], tiny(x))
        torch.testing.assert_close(read, {"block1.conv1": torch.relu(tiny.stem(x))})
        assert not tiny.block1.conv1._forward_pre_hooks
        torch.testing.assert_close(OutputsAndFeatures(tiny, ["block1.conv1"])(x)[1], read["block1.conv1"])


def test_feature_loss_is_in_units_of_the_teachers_variance() -> None:
    wanted = {"a": torch.randn(4, 8), "b": torch.randn(4, 8)}
    found = {"a": wanted["a"] + 0.5, "b": torch.randn(4, 6)}
    assert float(feature_loss(found, wanted)) == pytest.approx(0.25 / float(wanted["a"].var()), rel=1e-5)
    assert feature_loss({"b": found["b"]}, wanted) == 0.0


def test_student_comes_nearer_to_the_teachers_features_when_held_to_them(tiny: nn.Module, train: TensorDataset) -> None:
    name, images = "depthwise", train.tensors[0]
    spoilt = copy.deepcopy(tiny)
    with torch.no_grad():
        spoilt.block1.conv2.weight.mul_(-1.0)
    ends = {}
    for features in ((), (name,)):
        student = copy.deepcopy(spoilt)
        recovery = Recovery(tiny, train, Recipe(learning_rate=0.05, batch_size=16, features=features))
        recovery.run(student, temperature=4.0, alpha=1.0, steps=30, seed=0)
        with torch.no_grad():
            ends[features] = float(F.mse_loss(read_by(student, name, images), read_by(tiny, name, images)))
    assert ends[(name,)] < 0.8 * ends[()]


def test_a_pruned_student_is_held_to_the_features_that_it_still_has_whole(tiny: nn.Module, train: TensorDataset) -> None:
    intake = take_in(tiny, torch.randn(4, 3, 8, 8))
    inner = next(group.name for group in intake.graph.channel_groups if group.layers == ("block1.conv1",))
    student = compress_module(intake.module, intake.graph, Plan(kept={inner: 4})).module
    recipe = Recipe(batch_size=16, features=("block1.conv2", "fc"))
    report = Recovery(intake.module, train, recipe).run(student, temperature=4.0, alpha=1.0, steps=2, seed=0)
    assert report.last_loss > 0.0


def test_an_unknown_feature_is_refused_with_its_neighbours(tiny: nn.Module) -> None:
    traced = take_in(tiny, torch.randn(4, 3, 8, 8)).module
    with pytest.raises(ConfigError, match=r"'block1.conv9'; near it are block1.conv"):
        check_layers(traced, ("fc", "block1.conv9"))
    with pytest.raises(ConfigError, match="'block1'"):  # a part that holds layers is not called itself
        check_layers(traced, ("block1",))
