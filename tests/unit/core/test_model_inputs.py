"""Models with several inputs, with tokens, and with arguments that keep their defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.sensitivity.fisher import Asked, fisher_damages
from paretopress.core.model_graph import TensorSpec
from paretopress.core.plan import Plan
from paretopress.errors import ModelError
from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx
from paretopress.system.batch_loading import collate, inputs_of


class Views(nn.Module):
    """Two images and an argument with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor, scale: float = 2.0, offset: Tensor | None = None) -> dict[str, Tensor]:
        x = torch.cat([torch.relu(self.left(left)).mean((2, 3)), scale * torch.relu(self.right(right)).mean((2, 3))], 1)
        if offset is not None:
            x = x + offset
        return {"logits": self.fc(x)}


class Tokens(nn.Module):
    """Tokens and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.fc = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = torch.relu(self.first(self.words(tokens))) * mask.unsqueeze(-1)
        return self.fc(x.sum(1) / mask.sum(1, keepdim=True))


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)


@pytest.fixture
def sentences() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 20, (4, 6)), torch.ones(4, 6)


def test_take_in_takes_the_first_arguments_when_inputs_have_no_names(views: tuple[Tensor, Tensor]) -> None:
    model = Views().eval()
    intake = take_in(model, views)
    assert intake.graph.inputs == (TensorSpec("left", (3, 8, 8)), TensorSpec("right", (3, 8, 8)))
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(*views), model(*views)["logits"])


def test_take_in_takes_inputs_by_name_in_the_order_of_the_data(views: tuple[Tensor, Tensor]) -> None:
    model = Views().eval()
    intake = take_in(model, views, ("right", "left"))
    assert [spec.name for spec in intake.graph.inputs] == ["right", "left"]
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(*views), model(right=views[0], left=views[1])["logits"])


@pytest.mark.parametrize(
    ("names", "message"), [(("left", "middle"), "but got middle. It takes left, right"), (("left",), "right is missing")]
)
def test_take_in_names_the_argument_when_the_data_does_not_fit(views: tuple[Tensor, Tensor], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        take_in(Views().eval(), views[: len(names)], names)


def test_take_in_gives_tokens_their_type(sentences: tuple[Tensor, Tensor]) -> None:
    graph = take_in(Tokens().eval(), sentences).graph
    assert graph.inputs == (TensorSpec("tokens", (6,), "int64"), TensorSpec("mask", (6,)))
    assert {group.name for group in graph.channel_groups} == {"first"}


def test_fisher_damages_are_found_when_the_first_layer_reads_tokens(sentences: tuple[Tensor, Tensor]) -> None:
    intake = take_in(Tokens().eval(), sentences)
    found = fisher_damages(
        intake.module, intake.graph, sentences, Asked(kept={"first": (16,)}, ranks={"first": (4,)}, bits={"first": (4,)})
    )
    assert min(found.kept["first"][16], found.ranks["first"][4], found.bits["first"][4]) > 0.0


def test_export_onnx_names_all_inputs_when_there_are_several(views: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    intake = take_in(Views().eval(), views)
    module = compress_module(intake.module, intake.graph, Plan(kept={"left": 4})).module
    export_onnx(module, views, tmp_path / "model.onnx", ("left", "right"))
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["left", "right"]
    (found,) = session.run(None, {"left": views[0][:1].numpy(), "right": views[1][:1].numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(*(part[:1] for part in views)).numpy(), rtol=1e-4, atol=1e-5)


class Ignores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return self.fc(x)


def test_export_onnx_keeps_an_input_that_nothing_reads(tmp_path: Path) -> None:
    example = (torch.randn(2, 4), torch.randint(0, 2, (2, 3)))
    export_onnx(take_in(Ignores().eval(), example).module, example, tmp_path / "model.onnx", ("x", "unused"))
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [(node.name, node.type) for node in session.get_inputs()] == [("x", "tensor(float)"), ("unused", "tensor(int64)")]


def test_collate_stacks_each_input_of_tuples_and_dicts() -> None:
    pair = (torch.zeros(3), torch.ones(2, dtype=torch.int64))
    for x in (pair, list(pair), {"a": pair[0], "b": pair[1]}):
        (first, second), labels = collate([(x, 1), (x, 2)])
        assert (first.shape, second.shape, labels.tolist()) == ((2, 3), (2, 2), [1, 2])
    alone, _ = collate([(pair[0], 0)])
    assert isinstance(alone, Tensor)


@pytest.mark.parametrize("x", [3, "text", (), (torch.zeros(2), 3)])
def test_inputs_of_raises_when_an_item_holds_anything_but_tensors(x: object) -> None:
    with pytest.raises(TypeError, match="x must be a tensor, or a tuple or dict of tensors"):
        inputs_of(x)
