from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from paretopress.core.model_graph import INPUT, OUTPUT, LayerKind
from paretopress.errors import LoweringError, ParityError
from paretopress.evaluators.source_graph import Format, source_layers
from paretopress.intake.trace import take_in
from paretopress.lower.export import check_parity, export_onnx
from paretopress.lower.quantise import PLAIN, Formats, quantise_onnx

ALL = ("stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.down.0", "depthwise", "fc")


@pytest.fixture
def exported(tiny: nn.Module, images: Tensor, tmp_path: Path) -> Path:
    export_onnx(tiny, images, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def run(path: Path, images: Tensor) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images.numpy()})[0]


def quantise(source: Path, bits: dict[str, int], images: Tensor, formats: Formats = PLAIN) -> Path:
    target = source.with_name("quantised.onnx")
    quantise_onnx(source, target, bits, [{INPUT: images.numpy()}], reduce_range=False, formats=formats)
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
def test_quantise_onnx_puts_qdq_on_the_named_layer_alone(exported: Path, images: Tensor, layer: str) -> None:
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


def test_quantise_onnx_stays_near_the_float_when_all_layers_are_named(exported: Path, images: Tensor) -> None:
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


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_quantise_onnx_finds_ranges_anew_for_dynamic_linears_alone(exported: Path, images: Tensor) -> None:
    reference = run(exported, images)
    path = quantise(exported, dict.fromkeys(ALL, 8), images, Formats(dynamic=True))
    found = operators(path)
    assert (found["MatMulInteger"], found["DynamicQuantizeLinear"], found["Gemm"], found["MatMul"]) == (1, 1, 0, 0)
    assert layers_with_dequantised_weights(path) == set(ALL) - {"fc"}
    assert 0.0 < np.abs(run(path, images) - reference).max() < 0.1 * np.abs(reference).max()


def test_quantise_onnx_leaves_a_float_linear_beside_dynamic_ones(exported: Path, images: Tensor) -> None:
    assert operators(quantise(exported, {"stem": 8}, images, Formats(dynamic=True)))["DynamicQuantizeLinear"] == 0


def test_quantise_onnx_halves_the_file_when_weights_are_stored_in_16_bits(exported: Path, images: Tensor) -> None:
    reference = run(exported, images)
    path = quantise(exported, {}, images, Formats(float16=True))
    weights = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1}
    assert {tensor.data_type for tensor in weights.values()} == {onnx.TensorProto.FLOAT16}
    assert len(weights) == len(ALL)
    assert path.stat().st_size < 0.7 * exported.stat().st_size  # names, nodes and biases stay
    assert 0.0 < np.abs(run(path, images) - reference).max() < 2e-3 * np.abs(reference).max()


def test_quantise_onnx_leaves_int8_weights_alone_beside_float16(exported: Path, images: Tensor) -> None:
    path = quantise(exported, {"block1.conv1": 8}, images, Formats(float16=True))
    types = Counter(tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1)
    assert types == {onnx.TensorProto.FLOAT16: len(ALL) - 1, onnx.TensorProto.INT8: 1}
    assert layers_with_dequantised_weights(path) == {"block1.conv1"}
    assert np.isfinite(run(path, images)).all()


def test_quantise_onnx_keeps_a_weight_in_32_bits_when_16_cannot_hold_it(images: Tensor, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[1].weight[0, 0] = 1e5
    export_onnx(model, images, tmp_path / "float.onnx")
    path = quantise(tmp_path / "float.onnx", {}, images, Formats(float16=True))
    types = [tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1]
    assert sorted(types) == sorted([onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
    np.testing.assert_allclose(run(path, images), run(tmp_path / "float.onnx", images), rtol=1e-2, atol=1.0)


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, and two Linear layers: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.hidden, self.fc = nn.LSTM(24, 16, batch_first=True), nn.Linear(16, 128), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.hidden(self.lstm(x.transpose(1, 2).flatten(2))[0][:, -1])))


@pytest.mark.parametrize(("fc", "kernel"), [(8, "DequantizeLinear"), (4, "MatMulNBits"), (32, "")])
def test_quantise_onnx_finds_a_linear_by_name_when_an_lstm_precedes_it(images: Tensor, tmp_path: Path, fc: int, kernel: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Recurrent().eval()
    export_onnx(model, images, tmp_path / "float.onnx")
    path = quantise(tmp_path / "float.onnx", {"lstm": 8} | ({"fc": fc} if fc < 32 else {}), images)
    found = operators(path)
    assert found["DynamicQuantizeLSTM"] == 1
    assert {"DequantizeLinear": found["DequantizeLinear"] > 0, "MatMulNBits": found["MatMulNBits"] == 1, "": found["MatMul"] == 2}[kernel]
    reference = run(tmp_path / "float.onnx", images)
    assert np.abs(run(path, images) - reference).max() < 0.25 * np.ptp(reference)


@pytest.mark.parametrize("dynamic", [False, True])
def test_quantise_onnx_gives_each_linear_of_an_encoder_its_format_alone(
    attends: Callable[..., nn.Module], images: Tensor, tmp_path: Path, dynamic: bool
) -> None:
    intake = take_in(attends(), images)
    linears = [layer.name for layer in intake.graph.layers if layer.kind is LayerKind.LINEAR]
    export_onnx(intake.module, images, tmp_path / "float.onnx")
    bits = {name: (8, 4, 32)[i % 3] for i, name in enumerate(linears)}
    path = quantise(tmp_path / "float.onnx", {name: b for name, b in bits.items() if b < 32}, images, Formats(dynamic=dynamic))
    found = {name: layer.format for name, layer in source_layers(onnx.load(path).graph).items()}
    eight = Format.DYNAMIC_INT8 if dynamic else Format.INT8
    wanted = {8: eight, 4: Format.WEIGHT_ONLY, 32: Format.FLOAT}
    suffixes = {Format.WEIGHT_ONLY: "_Q4", Format.DYNAMIC_INT8: "_quant"}  # the quantisers' own
    expected = {f"{name}{suffixes.get(wanted[b], '')}": wanted[b] for name, b in bits.items()}
    assert {name: form for name, form in found.items() if not name.startswith("patches")} == expected


def test_quantise_onnx_rounds_both_calls_of_a_linear_to_4_bits(images: Tensor, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.fc = nn.Linear(192, 192), nn.Linear(192, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.shared(torch.relu(self.shared(x.flatten(1)))))

    export_onnx(Twice().eval(), images, tmp_path / "float.onnx")
    path = quantise(tmp_path / "float.onnx", {"shared": 4}, images)
    assert operators(path)["MatMulNBits"] == 2
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
def test_export_onnx_agrees_with_torch_when_a_layer_is_called_twice(images: Tensor, tmp_path: Path, normed: bool) -> None:
    torch.manual_seed(0)
    module = CalledTwice(normed=normed).eval()
    export_onnx(module, images, tmp_path / "float.onnx")
    with torch.inference_mode():
        np.testing.assert_allclose(run(tmp_path / "float.onnx", images), module(images).numpy(), rtol=1e-4, atol=1e-5)
    weights = {node.input[1] for node in onnx.load(tmp_path / "float.onnx").graph.node if node.op_type == "Conv"}
    assert len(weights) == (2 if normed else 1)  # equal ones are in the file once


@pytest.mark.parametrize("normed", [True, False])
def test_quantise_onnx_stays_near_when_a_biased_layer_is_called_twice(images: Tensor, tmp_path: Path, normed: bool) -> None:
    torch.manual_seed(0)
    module = CalledTwice(normed=normed).eval()
    with torch.no_grad():
        module.shared.bias.copy_(torch.tensor([2.0, -1.0, 1.0]))  # type: ignore[union-attr]
    export_onnx(module, images, tmp_path / "float.onnx")
    quantised = run(quantise(tmp_path / "float.onnx", {"shared": 8}, images), images)
    exact = run(tmp_path / "float.onnx", images)
    assert np.abs(quantised - exact).max() < 0.03 * np.ptp(exact)


class Twins(nn.Module):
    """Two layers of one weight, of the kind that is asked for, and a classifier: (N, ...) -> (N, 3)."""

    def __init__(self, kind: str, *, tied: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b = (nn.Conv2d(16, 16, 1) if kind == "conv" else nn.Linear(16, 16) for _ in range(2))
            self.fc = nn.Linear(16, 3)
        self.axes = {"conv": (2, 3), "tokens": (1,), "rows": ()}[kind]
        if tied:
            self.b.weight = self.a.weight
        else:
            self.b.weight.data.copy_(self.a.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.fc(x.mean(self.axes) if self.axes else x)


SHAPES = {"conv": (6, 16, 4, 4), "tokens": (6, 5, 16), "rows": (6, 16)}


@pytest.mark.parametrize("layer", ["a", "b"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
def test_quantise_onnx_quantises_the_named_layer_when_weights_are_shared(kind: str, tied: bool, layer: str, tmp_path: Path) -> None:
    x, path = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(1)), tmp_path / "float.onnx"
    module = take_in(Twins(kind, tied=tied).eval(), x).module
    export_onnx(module, x, path)
    assert [node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm", "MatMul")] == ["a", "b", "fc"]
    rounded = quantise(path, {layer: 8}, x)
    found = {each.name: each.format for each in source_layers(onnx.load(rounded).graph).values()}
    assert found == {"a": Format.FLOAT, "b": Format.FLOAT, "fc": Format.FLOAT} | {layer: Format.INT8}
    assert np.abs(run(rounded, x) - run(path, x)).max() < 0.05


def test_export_onnx_numbers_the_calls_of_a_layer_with_shared_weights(tmp_path: Path) -> None:
    class Again(Twins):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.relu(self.b(torch.relu(self.a(x)))))

    x = torch.randn(SHAPES["tokens"])
    export_onnx(take_in(Again("tokens", tied=True).eval(), x).module, x, tmp_path / "float.onnx")
    names = [node.name.split("#")[0] for node in onnx.load(tmp_path / "float.onnx").graph.node if node.op_type == "MatMul"]
    assert names == ["a", "b", "a", "b"]


class Folded(nn.Module):
    """A convolution, and patches that are put together again: an operator of opset 18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        patches = nn.functional.unfold(x, 3, padding=1)
        return self.fc(nn.functional.fold(patches, x.shape[2:], 3, padding=1))


def test_export_and_quantise_agree_when_an_operator_needs_a_newer_opset(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = take_in(Folded(), images).module
    export_onnx(module, images, tmp_path / "float.onnx")
    exact = run(tmp_path / "float.onnx", images)
    quantised = run(quantise(tmp_path / "float.onnx", {"conv": 8, "fc": 8}, images), images)
    assert np.abs(quantised - exact).max() < 0.05 * np.ptp(exact)
