"""Graphs that are exported once for all widths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.compress.apply import compress_module
from paretopress.core.plan import Plan
from paretopress.intake.trace import take_in
from paretopress.lower import exchanged_weights as module
from paretopress.lower.exchanged_weights import ExportedGraphs
from paretopress.lower.export import check_parity, export_onnx
from paretopress.spaces.space import SearchSpace, SpaceOptions

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Mobile(nn.Module):
    """A mobile block with a residual branch, a squeeze-and-excitation, poolings and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16)
        self.wide, self.deep, self.back = nn.Conv2d(16, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.Conv2d(48, 16, 1)
        self.squeeze, self.excite = nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1)
        self.act, self.fc = nn.ReLU6(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))))
        inner = self.act(self.deep(self.act(self.wide(x))))
        inner = inner * torch.sigmoid(self.excite(F.relu(self.squeeze(inner.mean((2, 3), keepdim=True)))))
        return self.fc((x + self.back(inner)).mean((2, 3)))


class Words(nn.Module):
    """Attention over patches, written out, with norms and hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.fc = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.fc((x + self.down(F.gelu(self.up(x)))).mean(1))


class Tied(nn.Module):
    """Two matrices that are the same, which no file can tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.fc = nn.Conv2d(3, 16, 1), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc(F.relu(self.second(F.relu(self.first(x)))).mean(1))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each export."""
    made: list[str] = []
    original = module.exported
    monkeypatch.setattr(module, "exported", lambda *given: made.append("one") or original(*given))
    return made


def operators(path: Path) -> list[tuple[str, str]]:
    return [(node.op_type, node.name) for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("network", [Mobile, Words])
def test_a_graph_is_exported_once_for_all_widths(
    network: Callable[[], nn.Module], checked: bool, exports: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    intake = take_in(network().eval(), IMAGES)
    space, graphs = SearchSpace(intake.graph, SpaceOptions(channel_step=4)), ExportedGraphs()
    for place, share in enumerate((0.0, 0.25, 0.5)):
        plan = Plan(kept=space.uniform_kept(share) if share else {})
        pruned = compress_module(intake.module, intake.graph, plan).module
        with torch.no_grad():
            for weight in pruned.parameters():
                weight.mul_(1.0 + place)  # trained meanwhile
        path, wanted = tmp_path / f"{place}.onnx", tmp_path / f"{place}_exported.onnx"
        graphs.export(pruned, IMAGES, path, ("input",), ("output",), checked=checked)
        export_onnx(pruned, IMAGES, wanted)
        assert check_parity(pruned, path, IMAGES) < 1e-3
        assert operators(path) == operators(wanted)
        onnx.checker.check_model(onnx.load(path))
    assert len(exports) == 1


def test_another_structure_is_exported_anew(exports: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    intake, graphs = take_in(Mobile().eval(), IMAGES), ExportedGraphs()
    (branch,) = intake.graph.branches
    for plan in (Plan(), Plan(kept={branch.group: 0}), Plan(rank={"back": 4}), Plan()):
        module = compress_module(intake.module, intake.graph, plan).module
        graphs.export(module, IMAGES, tmp_path / "file.onnx", ("input",), ("output",))
        assert check_parity(module, tmp_path / "file.onnx", IMAGES) < 1e-3
    assert len(exports) == 3


def test_a_model_whose_weights_cannot_be_told_apart_is_exported_each_time(exports: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, graphs = take_in(Tied().eval(), IMAGES).module, ExportedGraphs()
    for _ in range(2):
        graphs.export(model, IMAGES, tmp_path / "file.onnx", ("input",), ("output",))
    assert len(exports) == 2


@pytest.mark.parametrize("checked", [True, False])
def test_what_does_not_fit_is_exported_after_all(
    exports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    torch.manual_seed(0)
    intake, graphs = take_in(Mobile().eval(), IMAGES), ExportedGraphs()
    graphs.export(intake.module, IMAGES, tmp_path / "file.onnx", ("input",), ("output",))

    def spoilt(self: object, _: object) -> onnx.ModelProto:
        made = onnx.load(tmp_path / "file.onnx")
        weight = next(tensor for tensor in made.graph.initializer if tensor.name == "fc.weight")
        weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 15), np.float32), weight.name))
        return made

    monkeypatch.setattr(module._Template, "with_weights_of", spoilt)
    graphs.export(intake.module, IMAGES, tmp_path / "again.onnx", ("input",), ("output",), checked=checked)
    assert check_parity(intake.module, tmp_path / "again.onnx", IMAGES) < 1e-3
