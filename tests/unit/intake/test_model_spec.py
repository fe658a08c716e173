from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from paretopress.errors import ConfigError, ModelError, TrustError
from paretopress.evaluators.macs import macs_by_layer
from paretopress.intake.model_spec import load_model
from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx

NAME = "squeezenet1_1"  # torchvision's smallest


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = torchvision.models.get_model(NAME, weights=None, num_classes=3)
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)


@pytest.mark.parametrize("spec", ["resnet18", "model.safetensors", "model.caffemodel", "", "timm:resnet18"])
def test_load_model_lists_the_forms_when_the_spec_is_unknown(spec: str) -> None:
    with pytest.raises(ConfigError, match="known form") as caught:
        load_model(spec)
    assert "FILE.py:FACTORY" in caught.value.hint
    assert "torchvision:" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("saved/saved_model.pb", "tf2onnx.convert --saved-model saved --output model.onnx"),
        ("model.tflite", "tf2onnx.convert --tflite model.tflite"),
        ("model.keras", "keras:model.keras"),
        ("model.h5", "model.save('MODEL.keras')"),
    ],
)
def test_load_model_says_the_way_round_for_files_of_other_frameworks(tmp_path: Path, name: str, way: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        load_model(name.removesuffix("/saved_model.pb"), base=tmp_path)
    assert way in caught.value.hint


def test_load_model_returns_eval_mode_when_the_factory_left_it_training(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef model():\n    return nn.Sequential(nn.Linear(2, 3), nn.Dropout()).train()\n"
    )
    model = load_model("net.py:model", base=tmp_path)
    assert isinstance(model, nn.Sequential)
    assert not any(module.training for module in model.modules())


def test_load_model_raises_when_the_factory_returns_something_else(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def model():\n    return {'weight': 1}\ndef fail():\n    raise OSError('no weights')\n")
    with pytest.raises(ModelError, match=r"torch.nn.Module, but got dict"):
        load_model("net.py:model", base=tmp_path)
    with pytest.raises(ModelError, match="OSError: no weights"):
        load_model("net.py:fail", base=tmp_path)


def test_load_model_builds_the_architecture_when_no_weights_are_given() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = load_model(f"torchvision:{NAME}?num_classes=3")
    assert torch.equal(torch.rand(2), expected), "the global generator was used"
    again = load_model(f"torchvision:{NAME}?num_classes=3")
    assert not first.training
    assert first(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert same(first, again.state_dict())


def test_load_model_fills_in_weights_when_they_are_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert same(load_model(f"torchvision:{NAME}?weights=w.safetensors&num_classes=3", base=tmp_path), state)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module."])
def test_load_model_fills_in_weights_when_a_trusted_pt_holds_them(tmp_path: Path, state: dict[str, Tensor], wrap: str) -> None:
    content: object = {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "module.": {f"module.{k}": v for k, v in state.items()},
    }[wrap]
    torch.save(content, tmp_path / "w.pt")
    assert same(load_model(f"torchvision:{NAME}?weights={tmp_path / 'w.pt'}&num_classes=3", trust=True), state)


@pytest.mark.parametrize("spec", ["w.pt", "w.pth", f"torchvision:{NAME}?weights=w.pt&num_classes=3", f"torchvision:{NAME}?weights=w.pth"])
def test_load_model_reads_no_pickle_when_not_trusted(
    tmp_path: Path, state: dict[str, Tensor], spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("pt", "pth"):
        torch.save(state, tmp_path / f"w.{ending}")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises(TrustError) as caught:
        load_model(spec, base=tmp_path)
    assert "safetensors" in caught.value.hint
    assert "--trust" in caught.value.hint


def test_load_model_runs_no_code_when_trusted_weights_hold_some(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")  # a whole module: weights_only=True must refuse it
    with pytest.raises(ModelError, match=r"w.pt could not be read"):
        load_model(f"torchvision:{NAME}?weights=w.pt", trust=True, base=tmp_path)


def test_load_model_names_the_keys_when_weights_do_not_fit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    renamed = {f"other.{key}" if key.startswith("features.0") else key: value for key, value in state.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(f"torchvision:{NAME}?weights=w.safetensors&num_classes=4", base=tmp_path)
    for part in (
        "2 missing: features.0.weight, features.0.bias",
        "2 unexpected: other.features.0",
        "classifier.1.bias (3,) instead of (4,)",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_load_model_raises_when_weights_are_missing_or_damaged(tmp_path: Path, name: str) -> None:
    spec = f"torchvision:{NAME}?weights={name}"
    with pytest.raises(ModelError, match="must exist"):
        load_model(spec, trust=True, base=tmp_path)
    (tmp_path / name).write_bytes(b"these are no weights")
    with pytest.raises(ModelError, match=f"{name} could not be read"):
        load_model(spec, trust=True, base=tmp_path)


def test_load_model_raises_when_the_weights_are_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\.safetensors, \.pt or \.pth"):
        load_model(f"torchvision:{NAME}?weights=w.bin", base=tmp_path)


def test_load_model_makes_an_ssd_of_torchvision_without_a_download() -> None:
    model = load_model("torchvision:ssdlite320_mobilenet_v3_large?num_classes=3")
    assert type(model).__name__ == "SSD"
    assert model.head.classification_head.num_columns == 3


def test_load_model_suggests_names_when_torchvision_has_no_such_classifier() -> None:
    with pytest.raises(ConfigError, match="'resnet19'") as caught:
        load_model("torchvision:resnet19")
    assert "resnet18" in caught.value.hint


def test_load_model_refuses_when_torchvision_would_download_a_backbone() -> None:
    with pytest.raises(ConfigError, match="no classifier"):
        load_model("torchvision:fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize("option", ["num_classes=0", "num_classes=ten", "weight=x"])
def test_load_model_raises_when_an_option_is_bad(option: str) -> None:
    with pytest.raises(ConfigError, match=option.split("=")[0]):
        load_model(f"torchvision:{NAME}?{option}")


def test_load_model_reads_a_whole_module_when_trusted(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3))
    torch.save(module, tmp_path / "m.pt")
    model = load_model("m.pt", trust=True, base=tmp_path)
    assert same(model, module.state_dict())
    assert not model.training


def test_load_model_raises_when_a_trusted_file_holds_no_module(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="but got dict") as caught:
        load_model("m.pt", trust=True, base=tmp_path)
    assert "torchvision:NAME?weights=FILE" in caught.value.hint
    (tmp_path / "m.pt").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="could not be read"):
        load_model("m.pt", trust=True, base=tmp_path)


def test_load_model_converts_an_onnx_file(tiny: nn.Module, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    export_onnx(tiny, images, tmp_path / "tiny.onnx")
    model = load_model("tiny.onnx", base=tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), tiny(images), rtol=1e-4, atol=1e-5)
    graph = take_in(model, images).graph
    assert len(graph.layers) == 8
    assert len(graph.branches) == 1
    assert macs_by_layer(model, images)["block1_conv1"] == 8 * 8 * 9 * 64  # in the file it has slashes, at which fvcore splits


def test_load_model_says_what_is_wrong_with_an_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"broken\.onnx must be an ONNX model"):
        load_model("broken.onnx", base=tmp_path)
