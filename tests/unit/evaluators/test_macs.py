"""Multiply-adds against counts by hand."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from paretopress.errors import ModelError
from paretopress.evaluators.macs import count_macs, macs_by_layer

CONV_MACS = 6 * 6 * 8 * (3 * 3 * 3)  # 6x6 outputs of 8 channels, each a 3x3 window over 3 channels
DEPTHWISE_MACS = 3 * 3 * 8 * (3 * 3 * 1)  # stride 2: 3x3 outputs
LINEAR_MACS = (8 * 3 * 3) * 4


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8))
        self.unused = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(72, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.erf(self.body(x)).flatten(1))
        return y


def test_count_macs_equals_the_hand_count_of_convs_and_a_linear() -> None:
    counts = count_macs(Small(), torch.zeros(1, 3, 6, 6))
    assert counts.macs == CONV_MACS + DEPTHWISE_MACS + LINEAR_MACS
    assert counts.params == (8 * 27 + 8) + (8 * 9 + 8) + 4 + (72 * 4 + 4)
    assert "aten::erf" in counts.uncounted


def test_macs_by_layer_splits_the_total_when_a_layer_is_not_called() -> None:
    assert macs_by_layer(Small(), torch.zeros(1, 3, 6, 6)) == {
        "body.0": CONV_MACS,
        "body.2": DEPTHWISE_MACS,
        "unused": 0,
        "head": LINEAR_MACS,
    }


def test_count_macs_restores_every_mode_when_the_modes_are_mixed() -> None:
    model = Small().train()
    model.body.eval()
    seen: list[bool] = []
    model.head.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    count_macs(model, torch.zeros(1, 3, 6, 6))
    assert seen
    assert not any(seen)
    assert (model.training, model.body.training, model.body[0].training, model.head.training) == (True, False, False, True)


def test_count_macs_says_nothing_when_operators_are_uncounted(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        count_macs(Small(), torch.zeros(1, 3, 6, 6))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_count_macs_raises_and_restores_when_the_shape_does_not_fit() -> None:
    model = Small().train()
    with pytest.raises(ModelError, match=r"must trace on an input of shape \(1, 5, 6, 6\)"):
        count_macs(model, torch.zeros(1, 5, 6, 6))
    assert model.head.training
