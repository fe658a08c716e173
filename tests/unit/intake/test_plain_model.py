from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import weight_norm
from torch.optim.swa_utils import AveragedModel

from paretopress.core.box_decoding import decoder_of
from paretopress.errors import ModelError
from paretopress.intake.plain_model import copied, plain_model, without_prefix
from paretopress.intake.raw_heads import anchors_of

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize(
    ("wrapped", "said"),
    [
        pytest.param(nn.DataParallel(net()), "DataParallel", id="DataParallel"),
        pytest.param(torch.compile(net()), "OptimizedModule", id="torch.compile"),
        pytest.param(torch.compile(nn.DataParallel(net())), "OptimizedModule", id="both"),
        pytest.param(AveragedModel(net()), "AveragedModel", id="averaged"),
    ],
)
def test_plain_model_takes_wrappers_off_and_says_so(wrapped: nn.Module, said: str) -> None:
    plain = plain_model(wrapped)
    assert isinstance(plain.module, nn.Sequential)
    assert said in plain.notes[0]


def test_plain_model_takes_wrappers_off_parts() -> None:
    model = nn.Sequential(nn.DataParallel(net()), nn.Linear(2, 2))
    plain = plain_model(model)
    assert isinstance(plain.module.get_submodule("0"), nn.Sequential)
    assert isinstance(model[0], nn.DataParallel)
    assert plain.notes == ("the wrapper of 0 was taken off",)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_plain_model_widens_weights_of_a_copy(kind: torch.dtype) -> None:
    model = net().to(kind)
    plain = plain_model(model)
    assert {part.dtype for part in plain.module.parameters()} == {torch.float32}
    assert {part.dtype for part in model.parameters()} == {kind}
    assert str(kind).removeprefix("torch.") in plain.notes[0]


def test_plain_model_returns_a_plain_one_itself() -> None:
    model = net()
    plain = plain_model(model)
    assert plain.module is model
    assert plain.notes == ()


def test_plain_model_refuses_torchscript_with_the_way_round() -> None:
    with pytest.raises(ModelError, match="TorchScript") as caught:
        plain_model(torch.jit.trace(net(), X))
    assert "ONNX" in caught.value.hint


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_copied_copies_a_model_that_holds_results_of_a_forward() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(4, 3)))
    wanted = model(X)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    torch.testing.assert_close(copied(model)(X), wanted)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "model.backbone."])
def test_without_prefix_finds_the_names_of_the_model(prefix: str) -> None:
    wanted = net().state_dict()
    given = {prefix + name: value for name, value in wanted.items()} | ({"loss.weight": torch.ones(2)} if prefix else {})
    assert without_prefix(given, wanted).keys() == wanted.keys()


def test_without_prefix_leaves_names_that_do_not_fit() -> None:
    assert without_prefix({"encoder.weight": X}, {"fc.weight": X}).keys() == {"encoder.weight"}


def test_plain_model_has_an_ssd_put_out_its_raw_heads() -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4).eval()
    photos = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    plain = plain_model(model)
    assert "decoder ssd" in plain.notes[0]
    with torch.inference_mode():
        wanted = model(list(photos))
        outputs = [part.numpy() for part in plain.module(photos)]
    boxes, scores = decoder_of("ssd", anchors_of(plain.module))(outputs, (320, 320))
    for photo, found in enumerate(wanted):
        box, score, label = (found[key][0].numpy() for key in ("boxes", "scores", "labels"))
        nearest = np.abs(boxes[photo].clip(0.0, 320.0) - box).max(axis=1).argmin()
        np.testing.assert_allclose(boxes[photo, nearest].clip(0.0, 320.0), box, atol=0.1)
        assert scores[photo, nearest, int(label) - 1] == pytest.approx(float(score), abs=1e-4)
