"""What names a traced model: models that compute something else have another name, whatever their tensors are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from paretopress.intake.model_identity import CODE, WEIGHTS, model_parts
from paretopress.intake.model_spec import load_model
from paretopress.intake.trace import take_in

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def twice(x: Tensor) -> Tensor:
    return x * 2


fx.wrap("twice")


def thrice(x: Tensor) -> Tensor:
    return x * 3


fx.wrap("thrice")


class Net(nn.Module):
    """Two convolutions with something between them; the same tensors at every call."""

    def __init__(self, between: Callable[[Tensor], Tensor], **changed: Any) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 16, 3, **{"padding": 1, **changed})
        self.bn, self.c2, self.fc = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)
        self.between = between
        self.eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c2(self.between(self.bn(self.c1(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def of(model: nn.Module) -> dict[str, str]:
    return model_parts(take_in(model, X).module)


def with_eps(eps: float) -> nn.Module:
    net = Net(torch.relu)
    net.bn.eps = eps
    return net


class Traced(nn.Module):
    """A leaf of the user's, whose inside is not traced."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() ** self.power


class OtherCode(nn.Module):
    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() ** self.power


OtherCode.__qualname__ = Traced.__qualname__

DIFFERENT: dict[str, tuple[nn.Module, nn.Module]] = {
    "an activation": (Net(torch.relu), Net(torch.sigmoid)),
    "an activation module": (Net(nn.ReLU()), Net(nn.Hardswish())),
    "a constant": (Net(lambda x: x * 2), Net(lambda x: x * 3)),
    "a wrapped function": (Net(twice), Net(thrice)),
    "a stride": (Net(torch.relu), Net(torch.relu, stride=2)),
    "a padding mode": (Net(torch.relu), Net(torch.relu, padding_mode="reflect")),
    "a slope": (Net(nn.LeakyReLU(0.01)), Net(nn.LeakyReLU(0.2))),
    "an eps": (with_eps(1e-5), with_eps(1e-3)),
    "a method's argument": (Net(lambda x: x.clamp(0, 6)), Net(lambda x: x.clamp(0, 5))),
    "the order of operands": (Net(lambda x: x - x.relu()), Net(lambda x: x.relu() - x)),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_model_parts_names_the_code_when_it_differs(pair: tuple[nn.Module, nn.Module]) -> None:
    one, two = (of(model) for model in pair)
    assert one[CODE] != two[CODE]
    assert one[WEIGHTS] == two[WEIGHTS]
    assert of(copy.deepcopy(pair[0])) == one


def leaf(inner: nn.Module) -> dict[str, str]:
    graph = fx.Graph()
    graph.output(graph.call_module("inner", (graph.placeholder("x"),)))
    root = nn.Module()
    root.add_module("inner", inner)
    return model_parts(fx.GraphModule(root, graph))


def test_model_parts_looks_into_a_leaf_when_its_code_is_the_users() -> None:
    assert leaf(Traced(2)) == leaf(Traced(2))
    assert leaf(Traced(2))[CODE] != leaf(Traced(3))[CODE]
    assert leaf(Traced(2))[CODE] != leaf(OtherCode(2))[CODE]


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.c1.weight.data[0, 0, 0, 0].add_(1.0),
        lambda net: net.bn.running_mean.add_(1.0),
        lambda net: net.fc.bias.data.neg_(),
    ],
    ids=["a weight", "a buffer", "a bias"],
)
def test_model_parts_names_the_weights_when_a_tensor_differs(change: Callable[[Net], object]) -> None:
    one, two = Net(torch.relu), Net(torch.relu)
    change(two)
    assert of(one)[CODE] == of(two)[CODE]
    assert of(one)[WEIGHTS] != of(two)[WEIGHTS]


def test_model_parts_names_the_weights_when_a_constant_tensor_differs() -> None:
    def net(value: float) -> Net:
        scale = torch.full((1,), value)
        return Net(lambda x: x * scale)

    assert of(net(2.0))[WEIGHTS] == of(net(2.0))[WEIGHTS]
    assert of(net(2.0))[WEIGHTS] != of(net(3.0))[WEIGHTS]


def onnx_file(path: Path, slope: float) -> Path:
    generator = torch.Generator().manual_seed(0)
    weights = [numpy_helper.from_array(torch.randn(8, 3, 3, 3, generator=generator).numpy(), "w")]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
        helper.make_node("LeakyRelu", ["y"], ["z"], "act", alpha=slope),
        helper.make_node("GlobalAveragePool", ["z"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["out"], "flat"),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["N", 3, 8, 8]), ("out", ["N", 8]))]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_model_parts_tells_files_apart_when_an_attribute_of_a_node_differs(tmp_path: Path) -> None:
    named = [of(load_model(str(onnx_file(tmp_path / f"{slope}.onnx", slope)))) for slope in (0.1, 0.2)]
    assert named[0] != named[1]
    assert of(load_model(str(tmp_path / "0.1.onnx"))) == named[0]
