"""The families of models that coverage.py goes through, with random weights, and random data of their shapes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from odd_onnx import make_odd
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, default_collate
from torchvision.models.detection.image_list import ImageList

from paretopress.intake.model_spec import load_model
from paretopress.lower.export import export_onnx
from paretopress.system.batch_loading import Item

CLASSES, SIZE, TOKENS, VOCABULARY = 10, 96, 64, 1_000
Splits = tuple[Dataset[Item], Dataset[Item], Dataset[Item]]


class Items(Dataset[Item]):
    """Items that `make` draws, kept in memory."""

    def __init__(self, count: int, make: Callable[[torch.Generator], Item], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._items = [make(generator) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        return self._items[index]


def _splits(make: Callable[[torch.Generator], Item]) -> Splits:
    """Return 64 train, 16 val and 16 test items."""
    return Items(64, make, 0), Items(16, make, 1), Items(16, make, 2)


def _label(generator: torch.Generator) -> int:
    return int(torch.randint(0, CLASSES, (), generator=generator))


def _random(*shape: int) -> Splits:
    """Return items of a shape, with labels below 10."""
    return _splits(lambda generator: (torch.randn(*shape, generator=generator), _label(generator)))


def images() -> Splits:
    """Return photos of 96x96."""
    return _random(3, SIZE, SIZE)


def large_images() -> Splits:
    """Return photos of 224x224, for networks whose last pooling cannot be exported at another size."""
    return _random(3, 224, 224)


def masks() -> Splits:
    """Return photos of 96x96 with a class for every pixel."""

    def make(generator: torch.Generator) -> Item:
        return torch.randn(3, SIZE, SIZE, generator=generator), torch.randint(0, CLASSES, (SIZE, SIZE), generator=generator)

    return _splits(make)


def objects(size: int = SIZE) -> Splits:
    """Return photos of 96x96 with up to three boxes and their labels."""

    def make(generator: torch.Generator) -> Item:
        rows = torch.zeros(3, 5)
        for row in rows[: 1 + int(torch.randint(0, 3, (), generator=generator))]:
            corner = torch.rand(2, generator=generator) * size / 2
            row[:2], row[2:4] = corner, corner + size / 4 + torch.rand(2, generator=generator) * size / 4
            row[4] = 1 + _label(generator) % (CLASSES - 1)
        return torch.randn(3, size, size, generator=generator), rows

    return _splits(make)


def large_objects() -> Splits:
    """Return the same of 320x320."""
    return objects(320)


def views() -> Splits:
    """Return pairs of photos of 96x96."""
    return _splits(lambda generator: (tuple(torch.randn(2, 3, SIZE, SIZE, generator=generator)), _label(generator)))


def sentences() -> Splits:
    """Return 64 tokens, the last of them masked, by the names that transformers uses."""

    def make(generator: torch.Generator) -> Item:
        length = int(torch.randint(TOKENS // 2, TOKENS + 1, (), generator=generator))
        tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
        return {"input_ids": tokens, "attention_mask": (torch.arange(TOKENS) < length).long()}, _label(generator)

    return _splits(make)


def clips() -> Splits:
    """Return clips of 8 frames of 56x56."""
    return _random(3, 8, 56, 56)


def waves() -> Splits:
    """Return a second of sound at 8 kHz."""
    return _random(1, 8_000)


def spectra() -> Splits:
    """Return sequences of 50 spectra of 40 bands."""
    return _random(50, 40)


def _norm_relu(conv: nn.Module, channels: int) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


class MobileNetV1(nn.Module):
    """Depthwise separable convolutions without residual sums (Howard et al. 2017, "MobileNets", table 1)."""

    _WIDTHS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    _STRIDES = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        layers, inputs = _norm_relu(nn.Conv2d(3, 32, 3, 2, 1, bias=False), 32), 32
        for width, stride in zip(self._WIDTHS, self._STRIDES, strict=True):
            layers += _norm_relu(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), inputs)
            layers += _norm_relu(nn.Conv2d(inputs, width, 1, bias=False), width)
            inputs = width
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean([2, 3]))


class OptionA(nn.Module):
    """A residual block whose skip takes every other pixel and pads the new channels with zeros; sums and activations are functions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        y += x
        return F.relu(y)


class ResNet20OptionA(nn.Module):
    """The ResNet-20 of He et al. 2016 with parameter-free shortcuts, its stages called as slices of one nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for width in (16, 32, 64):
            for index in range(3):
                blocks.append(OptionA(inputs, width, 2 if index == 0 and width > 16 else 1))
                inputs = width
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[:3](F.relu(self.bn(self.conv(x))))
        return self.fc(self.blocks[6:](self.blocks[3:6](x)).mean((2, 3)))


class Sound(nn.Module):
    """Convolutions over a waveform (Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms", M5)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in ((1, 64, 80, 4), (64, 64, 3, 1), (64, 128, 3, 1), (128, 256, 3, 1)):
            layers += [nn.Conv1d(inputs, outputs, kernel, stride), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(256, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean(2))


class Recurrent(nn.Module):
    """A recurrent layer between two Linear layers."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Linear(40, 64), kind(64, 128, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(256 if bidirectional else 128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.recurrent(F.relu(self.embed(x)))[0][:, -1])


class TwoViews(nn.Module):
    """Two inputs, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 2)) for _ in range(2))
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.cat([F.relu(self.left(left)).mean((2, 3)), F.relu(self.right(right)).mean((2, 3))], 1))


class Detector(nn.Module):
    """SSDLite of torchvision without its choice of boxes: logits (N, anchors, classes), and boxes (N, anchors, 4) in pixels.

    Boxes are decoded as in Liu et al. 2016, "SSD", section 2.2, with torchvision's weights of 10 and 5.
    """

    def __init__(self, whole: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head
        photos = torch.zeros(1, 3, size, size)
        with torch.inference_mode():
            features = list(whole.eval().backbone(photos).values())
            (anchors,) = whole.anchor_generator(ImageList(photos, [(size, size)]), features)
        self.register_buffer("centres", ((anchors[:, :2] + anchors[:, 2:]) / 2.0).clone())
        self.register_buffer("sizes", (anchors[:, 2:] - anchors[:, :2]).clone())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(images).values()))
        moved = found["bbox_regression"]
        centres = self.centres + moved[..., :2] / 10.0 * self.sizes
        halves = torch.exp((moved[..., 2:] / 5.0).clamp(max=4.0)) * self.sizes / 2.0
        return found["cls_logits"], torch.cat([centres - halves, centres + halves], dim=-1)


class Sentences(nn.Module):
    """An encoder of transformers, the mean of its states that are not masked, and a Linear."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.fc = encoder, nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.fc((states * mask).sum(1) / mask.sum(1))


def _bert(layers: int, width: int, heads: int, inner: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner
    )
    return Sentences(BertModel(config, add_pooling_layer=False), width)


def _distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    return Sentences(DistilBertModel(DistilBertConfig(vocab_size=VOCABULARY)), 768)


def _from_file(*, odd: bool) -> nn.Module:
    """Return a ResNet-18 from its ONNX file; an odd one has an activation that onnx2torch does not know."""
    made = torchvision.models.get_model("resnet18", weights=None, num_classes=CLASSES)
    _see_a_batch(made, images()[0])
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        path = Path(folder, "resnet18.onnx")
        export_onnx(made, torch.zeros(2, 3, SIZE, SIZE), path)
        if odd:
            make_odd(path)
        return load_model(str(path))


def _whole_ssdlite() -> nn.Module:
    return torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=CLASSES)


def _ssdlite() -> nn.Module:
    return Detector(_whole_ssdlite(), SIZE)


@dataclass(frozen=True, slots=True)
class Family:
    """A model without arguments, the name of the function here that gives its data, the metric, and the decoder of a detector's heads."""

    model: Callable[[], nn.Module]
    data: str = "images"
    metric: str = "top-1"
    decoder: str | None = None


def _vision(name: str, data: str = "images", metric: str = "top-1", **options: object) -> Family:
    return Family(lambda: torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options), data, metric)


FAMILIES: dict[str, Family] = {
    "resnet18": _vision("resnet18"),
    "resnet34": _vision("resnet34"),
    "resnet50": _vision("resnet50"),
    "resnet20, option A": Family(ResNet20OptionA),
    "vgg16": _vision("vgg16", "large_images"),
    "vgg16_bn": _vision("vgg16_bn", "large_images"),
    "squeezenet1_1": _vision("squeezenet1_1"),
    "densenet121": _vision("densenet121"),
    "googlenet": _vision("googlenet", aux_logits=False, init_weights=False),
    "convnext_tiny": _vision("convnext_tiny"),
    "mobilenet_v1": Family(MobileNetV1),
    "mobilenet_v2": _vision("mobilenet_v2"),
    "mobilenet_v3_small": _vision("mobilenet_v3_small"),
    "shufflenet_v2_x1_0": _vision("shufflenet_v2_x1_0"),
    "efficientnet_b0": _vision("efficientnet_b0"),
    "vit_b_16": _vision("vit_b_16", image_size=SIZE),
    "swin_t": _vision("swin_t"),
    "DistilBERT": Family(_distilbert, "sentences"),
    "TinyBERT": Family(lambda: _bert(4, 312, 12, 1_200), "sentences"),
    "MiniLM": Family(lambda: _bert(6, 384, 12, 1_536), "sentences"),
    "r3d_18": _vision("r3d_18", "clips"),
    "mc3_18": _vision("mc3_18", "clips"),
    "1-D CNN": Family(Sound, "waves"),
    "LSTM": Family(lambda: Recurrent(nn.LSTM), "spectra"),
    "LSTM, two directions": Family(lambda: Recurrent(nn.LSTM, bidirectional=True), "spectra"),
    "GRU": Family(lambda: Recurrent(nn.GRU), "spectra"),
    "lraspp_mobilenet_v3_large": _vision("lraspp_mobilenet_v3_large", "masks", "mIoU", weights_backbone=None),
    "deeplabv3_mobilenet_v3_large": _vision("deeplabv3_mobilenet_v3_large", "masks", "mIoU", weights_backbone=None),
    "fcn_resnet50": _vision("fcn_resnet50", "masks", "mIoU", weights_backbone=None, aux_loss=True),
    "ssdlite320_mobilenet_v3_large, boxes not chosen": Family(_ssdlite, "objects", "mAP"),
    "ssdlite320_mobilenet_v3_large": Family(_whole_ssdlite, "large_objects", "mAP", "ssd"),
    "two inputs": Family(TwoViews, "views"),
    "resnet18.onnx": Family(lambda: _from_file(odd=False)),
    "resnet18.onnx that does not convert": Family(lambda: _from_file(odd=True)),
}


def model(name: str) -> nn.Module:
    """Return a family's model in eval mode, the same at every call.

    Layers that torchvision leaves at zero are drawn, and batch norms see a batch: otherwise outputs are zero or nearly so, whatever
    is done to the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FAMILIES[name].model()
        for weight in (part.weight for part in made.modules() if isinstance(part, nn.Linear) and not part.weight.any()):
            nn.init.normal_(weight, std=0.02)
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in made.modules()):
            _see_a_batch(made, globals()[FAMILIES[name].data]()[0])
        return made.eval()


def _see_a_batch(module: nn.Module, items: Dataset[Item]) -> None:
    norms = [part for part in module.eval().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()  # the rest as it will be used: in training a detector of torchvision wants targets
    with torch.inference_mode():
        inputs, _ = default_collate([items[index] for index in range(8)])
        module(*inputs) if isinstance(inputs, list) else module(inputs)
    for norm in norms:
        norm.momentum = 0.1
    module.eval()
