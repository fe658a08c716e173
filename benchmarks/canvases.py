"""Fashion-MNIST items pasted on canvases, and small networks that find or name them, as a user of paretopress would hand them over.

Each canvas (128x128, RGB) is made from its number and a seed: a ground of soft colours, one to five tinted items of 20 to 56 pixels at
random places, and a box around the pixels of each. Items of train, val and test come from disjoint photos (those of fashion.py). The
detector: EfficientNet-lite0 (`pip install efficientnet_lite_pytorch`) up to its maps of 8 and 16 pixels a cell, and a YOLO head without
anchors on both. The same backbone tells which kinds of items a canvas shows, none, one or several. train_canvases.py trained both.

`data()` and `detector()` are the factories that `runs/canvas_detector.toml` names, `labelled()` and `labeller()` those of
`runs/canvas_labels.toml`. `raccoon_detector()` finds raccoons in photos (data/raccoon: source datitran/raccoon_dataset, MIT licence); name
the place of their data.yaml in the environment variable PARETOPRESS_RACCOONS, or leave it at ../shared/data/raccoon beside this checkout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fashion
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from paretopress.intake.datasets.data_spec import load_data

WEIGHTS = {name: fashion.HERE / "weights" / f"canvas_{name}.safetensors" for name in ("detector", "labeller", "raccoons")}
SIZE, OBJECTS, EDGES = 128, 5, (20, 56)
TRAIN, VAL, TEST = 8_000, 1_000, 2_000
STRIDES, WIDTH, CLASSES = (8, 16), 64, 10
RACCOON_SIZE = 192
_TAKEN = {8: 4, 16: 10}  # pixels a cell -> the block of EfficientNet-lite0 whose maps are taken


class Canvases(Dataset[tuple[Tensor, Tensor]]):
    """Canvases (3, 128, 128) in [0, 1] with rows (5, 5): a box in pixels and a label from 1, rows of zeros behind them."""

    classes = fashion.Rows.classes

    def __init__(self, photos: Tensor, labels: Tensor, count: int, seed: int) -> None:
        self.photos, self.labels, self.count, self.seed = photos, labels, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        canvas = F.interpolate(torch.rand(1, 3, 6, 6, generator=dice), SIZE, mode="bicubic")[0].clamp(0.0, 1.0) * 0.6
        rows = torch.zeros(OBJECTS, 5)
        for place in range(int(torch.randint(1, OBJECTS + 1, (), generator=dice))):
            rows[place] = self._paste(canvas, rows[:place], dice)
        there = rows[:, 4] > 0
        rows = torch.cat([rows[there], rows[~there]])
        return (canvas + 0.05 * torch.randn(canvas.shape, generator=dice)).clamp(0.0, 1.0), rows

    def _paste(self, canvas: Tensor, others: Tensor, dice: torch.Generator) -> Tensor:
        """Paste an item in place and return its row; zeros where it found no place beside the others."""
        number = int(torch.randint(len(self.labels), (), generator=dice))
        edge = int(torch.randint(EDGES[0], EDGES[1] + 1, (), generator=dice))
        item = F.interpolate(self.photos[number].float()[None, None] / 255.0, edge, mode="bilinear", antialias=True)[0, 0]
        rows, columns = ((item > 0.1).any(axis).nonzero() for axis in (1, 0))
        tint = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=dice)
        for _ in range(8):
            left, top = (int(torch.randint(SIZE - edge + 1, (), generator=dice)) for _ in range(2))
            box = torch.tensor([left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1]).float()
            if not len(others) or float(overlaps(box[None], others[:, :4]).max()) < 0.1:
                part = canvas[:, top : top + edge, left : left + edge]
                cover = (4.0 * item).clamp(0.0, 1.0)
                part.copy_(part * (1.0 - cover) + tint * (0.3 + 0.7 * item) * cover)
                return torch.cat([box, self.labels[number : number + 1].float() + 1.0])
        return torch.zeros(5)


class Labelled(Canvases):
    """Canvases with (10,) marks: 1.0 for each kind of item that is there."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        canvas, rows = super().__getitem__(index)
        marks = torch.zeros(CLASSES + 1)
        marks[rows[:, 4].long()] = 1.0
        return canvas, marks[1:]


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of each two boxes; 0 for boxes of zeros."""
    near, far = torch.maximum(boxes[:, None, :2], others[None, :, :2]), torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (far - near).clamp_min(0.0).prod(-1)
    areas = [(part[:, 2:] - part[:, :2]).prod(-1) for part in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp_min(1e-6)


def data() -> tuple[Canvases, Canvases, Canvases]:
    """Return train 8,000, val 1,000, test 2,000; the detector was trained on the same 8,000."""
    train, val, test = fashion.data()
    return (
        Canvases(train.photos, train.labels, TRAIN, 1),
        Canvases(val.photos, val.labels, VAL, 2),
        Canvases(test.photos, test.labels, TEST, 3),
    )


def labelled() -> tuple[Labelled, Labelled, Labelled]:
    """Return the same canvases with the kinds of items on them."""
    train, val, test = (Labelled(part.photos, part.labels, part.count, part.seed) for part in data())
    return train, val, test


def raccoons() -> tuple[Dataset[Any], ...]:
    """Return photos of raccoons in squares of 192 pixels with rows of boxes: train 130, val 30, test 40."""
    default = fashion.HERE.parent.parent / "shared" / "data" / "raccoon" / "data.yaml"
    made = load_data(f"yolo:{Path(os.environ.get('PARETOPRESS_RACCOONS', default))}?size={RACCOON_SIZE}")
    return made.train, made.val, made.test


class Backbone(nn.Module):
    """EfficientNet-lite0 up to its maps of 16 pixels a cell."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        whole = EfficientNet.from_name("efficientnet-lite0")
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(whole._blocks)[: max(_TAKEN.values()) + 1])

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps of canvases (N, 3, 128, 128) in [0, 1]: (N, 40, 16, 16) and (N, 112, 8, 8)."""
        x = self.stem((x * 255.0 - 127.0) / 128.0)
        taken = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAKEN.values():
                taken.append(x)
        return taken


class Detector(Backbone):
    """Two maps (N, 4 + classes, rows, columns): distances to the four sides in cells, and class logits; see `decode_yolo`.

    It takes photos (N, 3, height, width) in [0, 1] of any size whose sides are multiples of 16.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in (40, 112))
        self.towers = nn.ModuleList(nn.Sequential(*unit(WIDTH), *unit(WIDTH)) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(WIDTH, 4 + classes, 1) for _ in STRIDES)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps, the finer first."""
        fine, coarse = (lateral(part) for lateral, part in zip(self.lateral, self.maps(x), strict=True))
        fine = fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return [head(tower(part)) for part, tower, head in zip((fine, coarse), self.towers, self.heads, strict=True)]


class Labeller(Backbone):
    """A logit (N, 10) for each kind of item."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveMaxPool2d(1), nn.Linear(112, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of canvases (N, 3, 128, 128) in [0, 1]."""
        return self.fc(self.pool(self.maps(x)[-1]).flatten(1))


def unit(channels: int) -> tuple[nn.Module, ...]:
    """Return a convolution with its batch norm and ReLU."""
    return nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


def detector() -> nn.Module:
    """Return the detector with its weights."""
    return trained(Detector(), "detector")


def raccoon_detector() -> nn.Module:
    """Return the detector of raccoons with its weights."""
    return trained(Detector(1), "raccoons")


def labeller() -> nn.Module:
    """Return the network that names what is there, with its weights."""
    return trained(Labeller(), "labeller")


def trained(model: nn.Module, name: str) -> nn.Module:
    """Return a network with its weights, which are kept in half precision."""
    held = load_file(WEIGHTS[name])
    model.load_state_dict({key: part.float() if part.is_floating_point() else part for key, part in held.items()})
    return model.eval()
