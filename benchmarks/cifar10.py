"""CIFAR-10 (JPEG), the standard ResNet-20 and a MobileNetV2, as a user of paretopress would hand them over.

The data file holds the 50,000 train and 10,000 test photos of CIFAR-10, re-encoded as JPEG. Name its place in the environment
variable PARETOPRESS_CIFAR10, or leave it at ../shared/data/cifar10_jpeg.npz beside this checkout.

`data()`, `resnet20()` and `mobilenet_v2_050()` are the factories that `runs/cifar10_*.toml` name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import MobileNetV2, mobilenet_v2

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VAL_IMAGES = 5_000
SPLIT_SEED = 20_260


def weights_file(model: str) -> Path:
    """Return the place of the weights of a model in `MODELS`."""
    return HERE / "weights" / f"cifar10_{model}.safetensors"


def data_file() -> Path:
    """Return the place of cifar10_jpeg.npz: $PARETOPRESS_CIFAR10, else ../shared/data beside this checkout."""
    default = HERE.parent.parent / "shared" / "data" / "cifar10_jpeg.npz"
    return Path(os.environ.get("PARETOPRESS_CIFAR10", default))


class Photos(Dataset[tuple[Tensor, int]]):
    """Normalised photos (3, 32, 32) float32 with labels; `augment` adds a random flip and a random crop after padding by 4."""

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, photos: Tensor, labels: Tensor, *, augment: bool) -> None:
        self.photos, self.labels, self.augment = photos, labels, augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        # one call a batch: per-sample transforms would cost more than the training step of a 31-MMAC network
        x = self.photos[indices].float().div_(255.0)
        x = x.sub_(torch.tensor(MEAN).view(1, 3, 1, 1)).div_(torch.tensor(STD).view(1, 3, 1, 1))
        if self.augment:
            x = _flip_and_crop(x)
        return list(zip(x, self.labels[indices].tolist(), strict=True))


def _flip_and_crop(x: Tensor, pad: int = 4) -> Tensor:
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (pad,) * 4)
    top, left = torch.randint(0, 2 * pad + 1, (2, n))
    rows = top.view(n, 1) + torch.arange(height)
    columns = left.view(n, 1) + torch.arange(width)
    flipped = torch.rand(n) < 0.5
    columns[flipped] = columns[flipped].flip(1)
    return padded[torch.arange(n).view(n, 1, 1), :, rows.view(n, height, 1), columns.view(n, 1, width)].permute(0, 3, 1, 2).contiguous()


@cache
def _photos(split: str) -> tuple[Tensor, Tensor]:
    with np.load(data_file()) as archive:
        blob, off, labels = (archive[f"{split}_{key}"] for key in ("blob", "off", "y"))

    def decode(i: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(blob[off[i] : off[i + 1]].tobytes())).convert("RGB"))

    with ThreadPoolExecutor(2) as pool:
        photos = np.stack(list(pool.map(decode, range(len(labels)))))
    return torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def data() -> tuple[Photos, Photos, Photos]:
    """Return (train 45,000 augmented, val 5,000, test 10,000); the baseline was trained on the same 45,000."""
    photos, labels = _photos("train")
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(labels)))
    val, train = order[:VAL_IMAGES], order[VAL_IMAGES:]
    test_photos, test_labels = _photos("test")
    return (
        Photos(photos[train], labels[train], augment=True),
        Photos(photos[val], labels[val], augment=False),
        Photos(test_photos, test_labels, augment=False),
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: identity where shapes agree, else a strided 1x1 convolution (He et al. 2016, option B)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet20(nn.Module):
    """The three-stage CIFAR ResNet with 20 layers, 16-32-64 channels, 272 k parameters."""

    def __init__(self, classes: int = 10, blocks: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(channels_in, channels, stride), *(Block(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised photos (N, 3, 32, 32)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def untrained_mobilenet_v2_050() -> MobileNetV2:
    """Return torchvision's MobileNetV2 at half its width, 700 k parameters, for photos of 32x32.

    The stem and the first strided block step by 1 instead of 2, so that the last of the three strides left ends at 4x4.
    """
    model = mobilenet_v2(width_mult=0.5, num_classes=10)
    for conv in (model.features[0][0], model.features[2].conv[1][0]):
        conv.stride = (1, 1)
    return model


# name -> the untrained model; train_cifar10.py trains them
MODELS: dict[str, Callable[[], nn.Module]] = {"resnet20": ResNet20, "mobilenet_v2_050": untrained_mobilenet_v2_050}


def trained(name: str) -> nn.Module:
    """Return a model of `MODELS` with the weights that train_cifar10.py wrote."""
    model = MODELS[name]()
    model.load_state_dict(load_file(weights_file(name)))
    return model.eval()


def resnet20() -> nn.Module:
    """Return the trained ResNet-20."""
    return trained("resnet20")


def mobilenet_v2_050() -> nn.Module:
    """Return the trained MobileNetV2 at half its width."""
    return trained("mobilenet_v2_050")
