from __future__ import annotations

import torch
from torch import fx, nn

from paretopress.commands.demo_model import DemoNet, train_demo_model
from paretopress.intake.datasets.data import Data
from paretopress.intake.datasets.images import Images, Normalisation


def striped(count: int = 64) -> Data:
    """`count` noisy images of 8x8: horizontal stripes are class 0, vertical ones class 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    stripes = (torch.arange(8) % 2).float().expand(count, 1, 8, 8).clone()
    stripes[labels == 0] = stripes[labels == 0].transpose(2, 3)
    images = Images(stripes + 0.1 * torch.rand(stripes.shape, generator=generator), labels, Normalisation(1.0, (0.5,), (0.5,)))
    return Data(images, images, images)


def test_demonet_traces_to_the_same_logits_when_symbolic() -> None:
    model = DemoNet().eval()
    x = torch.rand(2, 1, 16, 16)
    traced = fx.symbolic_trace(model)
    assert traced(x).shape == (2, 10)
    assert torch.equal(traced(x), model(x))


def test_demonet_has_what_the_search_needs_when_built() -> None:
    convolutions = [module for module in DemoNet().modules() if isinstance(module, nn.Conv2d)]
    depthwise = [conv for conv in convolutions if conv.groups == conv.in_channels > 1]
    assert len(convolutions) == 1 + 4 + 2 + 4 + 3
    assert [conv.out_channels for conv in depthwise] == [32, 128]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in DemoNet().modules()) == len(convolutions)


def test_train_demo_model_lowers_the_loss_when_run_for_two_epochs() -> None:
    seen: list[tuple[int, int, float]] = []
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    model = train_demo_model(striped(), epochs=2, on_epoch=lambda *call: seen.append(call))
    assert torch.equal(torch.rand(2), expected), "the global generator was used"
    assert [call[:2] for call in seen] == [(1, 2), (2, 2)]
    assert seen[1][2] < 0.9 * seen[0][2]
    assert not model.training


def test_train_demo_model_repeats_itself_when_the_seed_is_the_same() -> None:
    first, again, other = (train_demo_model(striped(8), seed=seed, epochs=1).fc.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
