"""Small random convolutional networks from a grammar: what people write in their forward methods, put together by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SHAPE, CLASSES = (3, 16, 16), 10
_WIDTHS = (8, 16, 24, 32)


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with statistics and scales as training leaves them: none of them neutral."""
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.running_mean.normal_(0.0, 0.2)
        layer.running_var.uniform_(0.5, 1.5)
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.normal_(0.0, 0.2)
    return layer


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps the size of a map at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Plain(nn.Module):
    """conv, norm or none, activation."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs = draw.choice(_WIDTHS)
        normed = draw.random() < 0.7
        self.conv = conv(inputs, self.outputs, draw.choice((1, 3)), draw.choice((1, 1, 2)), bias=not normed)
        self.norm = norm(self.outputs) if normed else nn.Identity()
        self.act = draw.choice((nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU))()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    """add(x, f(x)), with or without an activation behind the sum; the sum in one of its spellings."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs, inner = inputs, draw.choice(_WIDTHS)
        self.body = nn.Sequential(conv(inputs, inner), norm(inner), nn.ReLU(inplace=draw.random() < 0.5), conv(inner, inputs), norm(inputs))
        self.spelling, self.relu = draw.choice(("+", "+=", "torch.add", "swapped")), draw.random() < 0.6

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.spelling == "+=":
            y += x
        elif self.spelling == "torch.add":
            y = torch.add(x, y)
        else:
            y = y + x if self.spelling == "+" else x + y
        return F.relu(y) if self.relu else y


class Projected(nn.Module):
    """A residual block that halves the map and widens it, with a projection on the skip."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs = draw.choice(_WIDTHS)
        self.first, self.second = conv(inputs, self.outputs, stride=2), conv(self.outputs, self.outputs)
        self.norms = nn.ModuleList([norm(self.outputs), norm(self.outputs)])
        self.skip = nn.Sequential(conv(inputs, self.outputs, 1, 2), norm(self.outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.skip(x))


class ZeroPadded(nn.Module):
    """A residual block whose skip has no parameters: every other pixel, zeros for the new channels (He et al. 2016, option A)."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs = 2 * inputs if inputs <= 16 else inputs
        self.body = nn.Sequential(conv(inputs, self.outputs, stride=2), norm(self.outputs), nn.ReLU(), conv(self.outputs, self.outputs))
        self.missing = self.outputs - inputs
        self.by_cat = draw.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        skip = x[:, :, ::2, ::2]
        if self.missing and self.by_cat:
            skip = torch.cat([skip, torch.zeros_like(skip)[:, : self.missing]], dim=1)
        elif self.missing:
            skip = F.pad(skip, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return F.relu(self.body(x) + skip)


class Joined(nn.Module):
    """Two branches joined along the channels, as in Inception and Fire modules."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        first, second = draw.choice(_WIDTHS), draw.choice(_WIDTHS)
        self.outputs = first + second
        self.squeeze = conv(inputs, 8, 1, bias=True)
        self.first, self.second = conv(8, first, 1, bias=True), conv(8, second, 3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.first(x)), F.relu(self.second(x))), 1)


class Dense(nn.Module):
    """cat(x, f(x)) with the norm before the convolution, as in DenseNet."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        growth = draw.choice((8, 16))
        self.outputs = inputs + growth
        self.norm, self.conv = norm(inputs), conv(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


class Grouped(nn.Module):
    """A grouped convolution between two pointwise ones, its channels shuffled or not (ShuffleNet, ResNeXt)."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs, inner = draw.choice(_WIDTHS), draw.choice((16, 32))
        self.groups, self.shuffles = draw.choice((2, 4)), draw.random() < 0.5
        self.reduce, self.middle = conv(inputs, inner, 1), conv(inner, inner, 3, groups=self.groups)
        self.norm, self.expand = norm(inner), conv(inner, self.outputs, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        if self.shuffles:
            n, c, h, w = x.shape
            x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(self.expand(F.relu(self.norm(self.middle(x)))))


class Halves(nn.Module):
    """One half of the channels passes, the other is worked on, and both are shuffled together (ShuffleNet V2)."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs, half = inputs, inputs // 2
        self.body = nn.Sequential(
            conv(half, half, 1), norm(half), nn.ReLU(), conv(half, half, 3, groups=half), norm(half), conv(half, half, 1)
        )
        self.channels = inputs

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = x.chunk(2, dim=1)
        x = torch.cat((passed, self.body(worked)), dim=1)
        n, _, h, w = x.size()
        return x.view(n, 2, self.channels // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


class Inverted(nn.Module):
    """A depthwise convolution between two pointwise ones, with or without squeeze and excitation (MobileNet V2 and V3)."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        inner, stride = 2 * inputs, draw.choice((1, 2))
        self.outputs = inputs if stride == 1 else draw.choice(_WIDTHS)
        self.expand, self.norm1 = conv(inputs, inner, 1), norm(inner)
        self.depthwise, self.norm2 = conv(inner, inner, 3, stride, inner), norm(inner)
        self.project, self.norm3 = conv(inner, self.outputs, 1), norm(self.outputs)
        self.excites, self.adds = draw.random() < 0.5, self.outputs == inputs and stride == 1
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(inner, 8, 1, bias=True), nn.ReLU(), conv(8, inner, 1, bias=True), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm2(self.depthwise(F.relu6(self.norm1(self.expand(x))))))
        if self.excites:
            y = self.gate(y) * y
        y = self.norm3(self.project(y))
        return x + y if self.adds else y


class Reused(nn.Module):
    """One convolution called twice."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.outputs = inputs
        self.shared, self.norm = conv(inputs, inputs), norm(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.shared(F.relu(self.shared(x)))))


class Sliced(nn.Module):
    """An nn.Sequential that is called in two parts."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        inner, self.outputs = draw.choice(_WIDTHS), draw.choice(_WIDTHS)
        self.layers = nn.Sequential(
            conv(inputs, inner, 1), norm(inner), nn.ReLU(), conv(inner, self.outputs), nn.ReLU(), nn.MaxPool2d(2, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[3:](self.layers[:3](x))


class Head(nn.Module):
    """Pooling in one of its spellings, then one or two linear layers."""

    def __init__(self, inputs: int, draw: random.Random) -> None:
        super().__init__()
        self.pools = draw.choice(("mean", "adaptive", "functional", "max and mean"))
        inputs = 2 * inputs if self.pools == "max and mean" else inputs
        hidden = draw.choice((None, 16, 32))
        self.hidden = nn.Identity() if hidden is None else nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.last = nn.Linear(hidden or inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.pools == "mean":
            pooled = x.mean((2, 3))
        elif self.pools == "adaptive":
            pooled = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        elif self.pools == "functional":
            pooled = F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1)
        else:
            pooled = torch.cat([x.amax((2, 3)), x.mean(dim=[2, 3])], 1)
        return self.last(self.hidden(pooled))


BLOCKS: Sequence[Callable[[int, random.Random], nn.Module]] = (
    Plain, Residual, Projected, ZeroPadded, Joined, Dense, Grouped, Halves, Inverted, Reused, Sliced,
)  # fmt: skip


class RandomNetwork(nn.Module):
    """Two to five random blocks between a stem and a head; (N, 3, 16, 16) -> (N, 10)."""

    def __init__(self, seed: int) -> None:
        """Draw the blocks and their weights; the global random generator is left as it was."""
        super().__init__()
        draw = random.Random(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = draw.choice((8, 16))
            self.stem = nn.Sequential(conv(INPUT_SHAPE[0], channels), norm(channels), nn.ReLU())
            self.blocks = nn.ModuleList()
            for _ in range(draw.randint(2, 5)):
                self.blocks.append(draw.choice(BLOCKS)(channels, draw))
                channels = int(self.blocks[-1].outputs)
            self.head = Head(channels, draw)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):  # a signal of the same strength at all depths: no mistake is too faint to see
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    if layer.bias is not None:
                        nn.init.normal_(layer.bias, std=0.2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def description(self) -> str:
        """Return the names of the blocks in order."""
        return " ".join(type(block).__name__ for block in self.blocks)
