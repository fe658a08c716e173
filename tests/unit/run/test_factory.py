from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from paretopress.config import RunConfig, parse_config
from paretopress.errors import ConfigError, DataError, ModelError
from paretopress.intake.datasets.data import Data
from paretopress.intake.onnx_module import onnx_graph_in
from paretopress.lower.export import export_onnx
from paretopress.run.factory import load_and_trace
from paretopress.tasks.binary import YesOrNo
from paretopress.tasks.several import SeveralOutputs


def config(**sections: object) -> RunConfig:
    return parse_config({"budget": {"speedup": 2}, "time": {"trials": 1}, **sections}, "a test")


class Net(nn.Module):
    """A convolution, a batch norm and a classifier that remembers in a buffer how often it ran."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, classes)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.fx.Proxy):
            self.get_buffer("runs").add_(1)
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def images(count: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(count)
    return TensorDataset(torch.randn(count, 1, 6, 6, generator=generator), torch.arange(count) % 3)


def test_load_and_trace_leaves_the_module_as_it_was() -> None:
    model = Net().train()
    model.norm.eval().requires_grad_(False)
    before = copy.deepcopy(model)
    load_and_trace(config(), model, (images(), images(16), images(8)))
    assert [part.training for part in model.modules()] == [part.training for part in before.modules()]
    assert [part.requires_grad for part in model.parameters()] == [part.requires_grad for part in before.parameters()]
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


class Padded(nn.Module):
    """Recorded, it forgets that padding counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.fc = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.first(self.words(tokens)))
        recorded = torch.overrides._get_current_function_mode() is not None
        return self.fc((x if recorded else x * (tokens > 0).unsqueeze(-1)).mean(1))


def test_load_and_trace_compares_padded_items_though_few_are() -> None:
    tokens = torch.randint(1, 20, (60, 8), generator=torch.Generator().manual_seed(0))
    whole = TensorDataset(tokens, torch.arange(60) % 3)
    load_and_trace(config(), Padded().eval(), (whole, whole, whole))
    padded = tokens.clone()
    padded[37, 3:] = 0
    with pytest.raises(ModelError, match="must compute what the model computes"):
        load_and_trace(config(), Padded().eval(), (whole, TensorDataset(padded, torch.arange(60) % 3), whole))


def test_load_and_trace_raises_when_class_names_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"as many classes as the model puts out, 3, but got 2 names: cat, dog") as raised:
        load_and_trace(config(), Net(), Data(images(), images(16), images(8), ("cat", "dog")))
    assert raised.value.exit_code == 2


def test_load_and_trace_drops_class_names_when_outputs_are_no_classes() -> None:
    values = TensorDataset(torch.randn(32, 1, 6, 6), torch.randn(32, 3))
    _, data = load_and_trace(config(metric={"name": "R2"}), Net(), Data(values, values, values, ("young", "old")))
    assert data.classes == ()


@pytest.mark.parametrize(
    ("logits", "names", "kept"),
    [(3, ("cat", "dog", "owl"), ("cat", "dog", "owl")), (1, ("no", "yes"), ("yes",)), (3, ("cat", "dog"), ())],
)
def test_load_and_trace_keeps_the_names_of_labels_that_are_yes_or_no(logits: int, names: tuple[str, ...], kept: tuple[str, ...]) -> None:
    photos = images(32).tensors[0]
    split = TensorDataset(photos, (torch.rand(len(photos), logits) > 0.5).float())
    _, data = load_and_trace(config(metric={"name": "F1"}), Net(logits), Data(split, split, split, names))
    assert isinstance(data.task, YesOrNo)
    assert data.classes == kept


@pytest.mark.parametrize("batch", [1, 4])
def test_load_and_trace_frees_a_file_of_its_batch(tmp_path: Path, batch: int) -> None:
    """The file names its batch in a reshape."""
    pytest.importorskip("onnx2torch")
    path = tmp_path / "m.onnx"
    export_onnx(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), images()[:batch][0], path
    )
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("shape")
    model.graph.initializer.append(onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [batch, 8]))
    onnx.save(model, path)
    intake, _ = load_and_trace(config(model=str(path)), None, (images(), images(16), images(8)))
    assert onnx_graph_in(intake.module) is None
    assert intake.module(torch.randn(7, 1, 6, 6)).shape == (7, 3)


class TwoHeads(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"kind": self.fc(x), "size": x[:, :1]}


class TwoLabels(Dataset[tuple[Tensor, object]]):
    def __init__(self, *labels: str) -> None:
        self.names, self.inner = labels, images()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, object]:
        x, label = self.inner[index]
        return x, {"kind": int(label), "size": float(x.mean())} if not self.names else dict.fromkeys(self.names, 1)


JUDGED = {"outputs": [{"output": "kind", "weight": 2.0}, {"output": "size", "name": "R2"}]}


def test_load_and_trace_judges_several_outputs_when_they_are_named() -> None:
    data = TwoLabels()
    intake, split = load_and_trace(config(metric=JUDGED), TwoHeads(), (data, data, data))
    assert isinstance(split.task, SeveralOutputs)
    assert [(part.output, part.weight) for part in split.task.parts] == [(0, 2.0), (1, 1.0)]
    assert split.task.metric == config(metric=JUDGED).metric.metric()
    assert [spec.name for spec in intake.graph.outputs] == ["kind", "size"]


def test_load_and_trace_says_which_label_is_missing() -> None:
    data = TwoLabels("kind")
    with pytest.raises(DataError, match="a label for each of the outputs kind, size"):
        load_and_trace(config(metric=JUDGED), TwoHeads(), (data, data, data))


def test_load_and_trace_refuses_features_beside_resolutions() -> None:
    sections = {"recovery": {"features": ["fc"]}, "space": {"resolution": [1.0, 0.5]}}
    with pytest.raises(ConfigError, match="at one resolution"):
        load_and_trace(config(**sections), Net(), (images(), images(16), images(8)))


@pytest.mark.parametrize("resolution", [[0.5], [1.0, 0.5, 0.75], [1.0, 1.0], [1.0, 0.1], []], ids=str)
def test_config_refuses_resolutions_that_do_not_fall_from_one(resolution: list[float]) -> None:
    with pytest.raises(ConfigError, match="resolution"):
        config(space={"resolution": resolution})
