"""The model of the demo: a small residual CNN with dense and depthwise convolutions, trained in seconds on handwritten digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from paretopress.intake.datasets.data import Data, batch, split_size

BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.02


def _convolution(channels_in: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


class ResidualBlock(nn.Module):
    """Two dense 3x3 convolutions and an identity skip (He et al. 2016); (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, channels, 3)
        self.conv2 = _convolution(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + branch(x))."""
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class SeparableBlock(nn.Module):
    """Depthwise 3x3 and pointwise convolution (Howard et al. 2017); (N, C, H, W) -> (N, channels, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _convolution(channels_in, channels_in, 3, stride=stride, groups=channels_in)
        self.pointwise = _convolution(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's activations."""
        return torch.relu(self.pointwise(torch.relu(self.depthwise(x))))


class InvertedBlock(nn.Module):
    """Expand, depthwise 3x3, project, and an identity skip (Sandler et al. 2018); (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, expanded: int) -> None:
        super().__init__()
        self.expand = _convolution(channels, expanded, 1)
        self.depthwise = _convolution(expanded, expanded, 3, groups=expanded)
        self.project = _convolution(expanded, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + branch(x), without an activation after the sum."""
        branch: Tensor = self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))
        return x + branch


class DemoNet(nn.Module):
    """The demo's network for grey 16x16 digits: what real networks are made of, small enough to search in minutes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = _convolution(1, 32, 3)
        self.stage1 = nn.Sequential(ResidualBlock(32), ResidualBlock(32))
        self.transition = SeparableBlock(32, 64, stride=2)
        self.stage2 = nn.Sequential(ResidualBlock(64), ResidualBlock(64))
        self.inverted = InvertedBlock(64, 128)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of x (N, 1, H, W) float32; made for H = W = 16."""
        x = self.stage1(torch.relu(self.stem(x)))
        x = self.inverted(self.stage2(self.transition(x)))
        logits: Tensor = self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


def train_demo_model(data: Data, *, seed: int = 0, epochs: int = 12, on_epoch: Callable[[int, int, float], None] | None = None) -> DemoNet:
    """Return a DemoNet trained on `data.train` with AdamW on one cycle, in eval mode.

    Args:
        data: x (1, H, W), made for `digits?size=16`; ten classes.
        seed: of the weights, the order and the augmentation; the global generator is left as it was.
        on_epoch: called after each epoch with (epoch from 1, epochs, mean loss).
    Source: one cycle, Smith and Topin 2018.
    """
    size = split_size(data.train, "train")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = DemoNet().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * -(-size // BATCH))
        for epoch in range(1, epochs + 1):
            total = 0.0
            order = torch.randperm(size).tolist()
            for start in range(0, size, BATCH):
                x, labels = batch(data.train, order[start : start + BATCH])
                loss = nn.functional.cross_entropy(model(x), labels)
                optimizer.zero_grad()
                torch.autograd.backward(loss)  # Tensor.backward has no types
                optimizer.step()
                schedule.step()
                total += loss.item() * len(labels)
            if on_epoch is not None:
                on_epoch(epoch, epochs, total / size)
    return model.eval()
