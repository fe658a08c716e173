"""A model file and a data file as a user would write them, a small ONNX file, and an interpreter without any of this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typed import quick, typed

from paretopress.system.run_folder import RunFolder

INSTALL_TIMEOUT_S = 900

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), Block(32), Block(32), Block(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()


def broken():
    model = make()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    return model


class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x):
        return self.conv(x if x.sum() > 0 else -x).mean((2, 3))


def untraceable():
    return Looking()


def recurrent():
    class Lines(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(8, 10, batch_first=True)

        def forward(self, x):
            return self.rnn(x.flatten(1, 2))[1].squeeze(0)

    return Lines()


def small_images():
    generator = torch.Generator().manual_seed(0)
    def split(count, label=10, value=None):
        x = torch.randn(count, 1, 8, 8, generator=generator)
        if value is not None:
            x[0] = value
        return torch.utils.data.TensorDataset(x, torch.randint(0, label, (count,), generator=generator))
    return split


def data():
    split = small_images()
    return split(128), split(64), split(64)


def own_outputs():
    def labelled(images):
        x = torch.stack([image for image, _ in images])
        with torch.no_grad():
            return torch.utils.data.TensorDataset(x, make()(x))
    return tuple(map(labelled, data()))


def three_channels():
    x = torch.randn(8, 3, 8, 8)
    return (torch.utils.data.TensorDataset(x, torch.zeros(8, dtype=torch.long)),) * 3


def wrong_labels():
    split = small_images()
    return split(128), split(64, label=40), split(64)


def nan_inputs():
    split = small_images()
    return split(128, value=float("nan")), split(64), split(64)


def empty_split():
    split = small_images()
    return split(128), split(0), split(64)
"""


@pytest.fixture(scope="session")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what matplotlib finds out about fonts, which takes it seconds."""
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, fonts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is helped by what another left, or by the user's own runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("MPLCONFIGDIR", str(fonts))


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, fonts: Path) -> RunFolder:
    """A finished run beside user.py and the cache that it filled; the tests that take it share all three."""
    where = tmp_path_factory.mktemp("workplace")
    (where / "user.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(where / "cache"))
        patch.setenv("MPLCONFIGDIR", str(fonts))
        done = typed(where, "search", quick(where / "first.toml", trials=6), "--run", "first")
    assert done.returncode == 0, done.stderr
    return RunFolder(where / "first")


@pytest.fixture
def known_setup(first: RunFolder, empty_cache: None) -> None:
    """A cache that holds what a search of `quick` finds out before its first trial, which takes it ten seconds, and nothing else."""
    kind = Path("paretopress", "setup")
    shutil.copytree(first.root.parent / "cache" / kind, Path(os.environ["XDG_CACHE_HOME"], kind))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder that holds user.py: models and data."""
    (tmp_path / "user.py").write_text(MODEL)
    return tmp_path


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of conv 3x3 (1 -> 8) -> ReLU -> mean -> linear (8 -> 3) for (N, 1, 8, 8) with fixed random weights."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (8, 1, 3, 3), "weights": (8, 3)}
    tensors = [numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "weights"], ["scores"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="session")
def lonely_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with numpy and onnxruntime alone: 20 s, of which pip takes nearly all."""
    folder = tmp_path_factory.mktemp("alone") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_TIMEOUT_S)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"]
    subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
    return python


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment without any package."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=INSTALL_TIMEOUT_S)
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
