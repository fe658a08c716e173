"""Fashion-MNIST read row by row, and an LSTM that classifies it, as a user of paretopress would hand them over.

60,000 / 10,000 grey photos of 28x28, each a sequence of 28 rows of 28 values, from Debian's package `dataset-fashion-mnist`; elsewhere
the four files of torchvision.datasets.FashionMNIST are the same: name their folder in the environment variable PARETOPRESS_FASHION.

`data()` and `lstm()` are the factories that `runs/fashion_lstm.toml` names.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights" / "fashion_lstm.safetensors"
DEBIAN = "/usr/share/datasets/fashion-mnist"
VAL_PHOTOS, SEED = 5_000, 20_260


def folder() -> Path:
    """Return the place of the four files: $PARETOPRESS_FASHION, else where Debian's package has them."""
    return Path(os.environ.get("PARETOPRESS_FASHION", DEBIAN))


def _array(name: str, header: int) -> np.ndarray:
    with gzip.open(folder() / f"{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _split(name: str) -> tuple[Tensor, Tensor]:
    photos = torch.from_numpy(_array(f"{name}-images-idx3-ubyte", 16).reshape(-1, 28, 28).copy())
    return photos, torch.from_numpy(_array(f"{name}-labels-idx1-ubyte", 8).astype(np.int64))


class Rows(Dataset[tuple[Tensor, int]]):
    """Photos as (28 rows, 28 values) float32 of mean 0 and deviation 1, with labels."""

    classes = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")

    def __init__(self, photos: Tensor, labels: Tensor) -> None:
        self.photos, self.labels = photos, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (self.photos[index].float() / 255.0 - 0.286) / 0.353, int(self.labels[index])


def data() -> tuple[Rows, Rows, Rows]:
    """Return train 55,000, val 5,000, test 10,000; the baseline was trained on the same 55,000."""
    photos, labels = _split("train")
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(labels)))
    val, train = order[:VAL_PHOTOS], order[VAL_PHOTOS:]
    return Rows(photos[train], labels[train]), Rows(photos[val], labels[val]), Rows(*_split("t10k"))


class RowReader(nn.Module):
    """Two layers of LSTM over the rows, and a Linear on the last state."""

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(28, hidden, batch_first=True), nn.LSTM(hidden, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.first(x)
        states, _ = self.second(states)
        return self.fc(states[:, -1])


def lstm() -> nn.Module:
    """Return the LSTM with its weights."""
    model = RowReader()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
