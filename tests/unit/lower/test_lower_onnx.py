from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from paretopress.errors import LoweringError, ParityError
from paretopress.graph import INPUT, OUTPUT
from paretopress.lower.export import check_parity, export_onnx
from paretopress.lower.quantise import quantise_onnx

ALL = ("stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.down.0", "depthwise", "fc")


@pytest.fixture
def exported(tiny: nn.Module, images: Tensor, tmp_path: Path) -> Path:
    export_onnx(tiny, images, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def run(path: Path, images: Tensor) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images.numpy()})[0]


def quantise(source: Path, bits: dict[str, int], images: Tensor) -> Path:
    target = source.with_name("quantised.onnx")
    quantise_onnx(source, target, bits, [{INPUT: images.numpy()}], reduce_range=False)
    return target


def layers_with_dequantised_weights(path: Path) -> set[str]:
    graph = onnx.load(path).graph
    producers = {output: node for node in graph.node for output in node.output}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return {node.name for node in weighted if node.input[1] in producers and producers[node.input[1]].op_type == "DequantizeLinear"}


def test_export_onnx_names_nodes_by_layer_when_exported(exported: Path) -> None:
    nodes = onnx.load(exported).graph.node
    assert tuple(sorted(n.name for n in nodes if n.op_type in ("Conv", "Gemm"))) == tuple(sorted(ALL))
    assert "BatchNormalization" not in {n.op_type for n in nodes}


def test_export_onnx_agrees_with_torch_when_the_batch_differs(exported: Path, tiny: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        np.testing.assert_allclose(run(exported, images[:1]), tiny(images[:1]).numpy(), rtol=1e-4, atol=1e-5)


def test_export_onnx_does_not_change_the_module_when_it_folds(tiny: nn.Module, images: Tensor, tmp_path: Path) -> None:
    names = set(tiny.state_dict())
    export_onnx(tiny.train(), images, tmp_path / "float.onnx")
    assert tiny.training
    assert set(tiny.state_dict()) == names


def test_check_parity_raises_when_the_file_computes_something_else(exported: Path, tiny: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        tiny.fc.bias.add_(1.0)
    with pytest.raises(ParityError, match=r"agree within 0\.1%"):
        check_parity(tiny, exported, images)


@pytest.mark.parametrize("layer", ["block1.conv1", "fc", "depthwise"])
def test_quantise_onnx_puts_qdq_on_that_layer_and_no_other_when_one_is_named(exported: Path, images: Tensor, layer: str) -> None:
    path = quantise(exported, {layer: 8}, images)
    assert layers_with_dequantised_weights(path) == {layer}
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    # one Q at its input, and one at its output but for the classifier, whose logits stay float
    assert ops["QuantizeLinear"] == (1 if layer == "fc" else 2)


def test_quantise_onnx_fuses_everything_when_all_layers_are_named(exported: Path, images: Tensor, tmp_path: Path) -> None:
    path = quantise(exported, dict.fromkeys(ALL, 8), images)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "QLinearConv" in ops
    assert not ops & {"Conv", "Gemm", "Add", "Relu", "FusedConv"}


def test_quantise_onnx_stays_near_the_float_outputs_when_all_layers_are_named(exported: Path, images: Tensor) -> None:
    reference = run(exported, images)
    difference = np.abs(run(quantise(exported, dict.fromkeys(ALL, 8), images), images) - reference).max()
    assert 0.0 < difference < 0.1 * np.abs(reference).max()


def test_quantise_onnx_uses_a_4_bit_kernel_when_a_linear_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    export_onnx(model, images, tmp_path / "float.onnx")
    path = quantise(tmp_path / "float.onnx", {"1": 4}, images)
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (ops["MatMulNBits"], ops["Gemm"]) == (1, 1)
    reference = run(tmp_path / "float.onnx", images)
    assert np.abs(run(path, images) - reference).max() < 0.25 * np.abs(reference).max()
    assert path.stat().st_size < 0.4 * (tmp_path / "float.onnx").stat().st_size


def test_quantise_onnx_raises_when_the_layer_is_not_in_the_file(exported: Path, images: Tensor) -> None:
    with pytest.raises(LoweringError, match="nothing"):
        quantise(exported, {"nothing": 8}, images)
    assert not exported.with_name("quantised.onnx").exists()


class CalledTwice(nn.Module):
    """One convolution with a bias, called on inputs of different ranges, a batch norm behind the second call alone."""

    def __init__(self, *, normed: bool) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, 1, 1)
        self.norm: nn.Module = nn.Identity()
        if normed:
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean = torch.tensor([0.5, -0.5, 1.0])
            self.norm.running_var = torch.tensor([4.0, 0.25, 2.0])
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(10.0 * torch.relu(self.shared(x))))
        return self.fc(self.norm(self.shared(x)).mean((2, 3)))


@pytest.mark.parametrize("normed", [True, False])
def test_export_onnx_agrees_with_torch_when_a_layer_is_called_more_than_once(images: Tensor, tmp_path: Path, normed: bool) -> None:
    torch.manual_seed(0)
    module = CalledTwice(normed=normed).eval()
    export_onnx(module, images, tmp_path / "float.onnx")
    with torch.inference_mode():
        np.testing.assert_allclose(run(tmp_path / "float.onnx", images), module(images).numpy(), rtol=1e-4, atol=1e-5)
    weights = {node.input[1] for node in onnx.load(tmp_path / "float.onnx").graph.node if node.op_type == "Conv"}
    assert len(weights) == (3 if normed else 1)  # shared where nothing was folded into them


@pytest.mark.parametrize("normed", [True, False])
def test_quantise_onnx_stays_near_when_a_layer_with_a_bias_is_called_more_than_once(images: Tensor, tmp_path: Path, normed: bool) -> None:
    torch.manual_seed(0)
    module = CalledTwice(normed=normed).eval()
    with torch.no_grad():
        module.shared.bias.copy_(torch.tensor([2.0, -1.0, 1.0]))  # type: ignore[union-attr]
    export_onnx(module, images, tmp_path / "float.onnx")
    quantised = run(quantise(tmp_path / "float.onnx", {"shared": 8}, images), images)
    exact = run(tmp_path / "float.onnx", images)
    assert np.abs(quantised - exact).max() < 0.03 * np.ptp(exact)
