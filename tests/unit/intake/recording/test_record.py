from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from paretopress.errors import ModelError
from paretopress.intake.recording.record import record

BATCH = 3


def recorded(model: nn.Module, *batch: Tensor) -> fx.GraphModule:
    model.eval()
    return record(model, [f"x{place}" for place in range(len(batch))], batch, lambda parts: model(*parts))


def images(count: int = BATCH, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def calls(module: fx.GraphModule) -> list[str]:
    """Return what a graph calls, in its order: paths of layers, names of functions and methods."""
    return [
        node.target if isinstance(node.target, str) else node.target.__name__
        for node in module.graph.nodes
        if node.op not in ("placeholder", "output", "get_attr")
    ]


class Forward(nn.Module):
    """A network of one convolution and one Linear, with a forward of the test's."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc, self.same, self.drop = nn.Linear(4, 5), nn.Identity(), nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self._forward = forward

    def forward(self, x: Tensor) -> object:
        return self._forward(self, x)


def branches_on_shapes(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    if y.shape[-1] > 4 and len(y.shape) == 4:
        y = F.max_pool2d(y, 2)
    for _ in range(y.size(1) // 2):
        y = m.act(y)
    return m.fc(y.mean((2, 3)))


def hard_coded_batch(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(F.adaptive_avg_pool2d(m.conv(x), 1).view(int(x.size(0)), -1))


def flat_by_number(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(F.adaptive_avg_pool2d(m.conv(x), 1).view(-1, 4))


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    m.act(y)
    y += m.scale
    y.mul_(2.0)
    return m.fc(y.mean((2, 3)))


def in_place_on_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x) * 1.5
    y[:, :2].mul_(3.0)
    y[:, 0] = 0.5
    return m.fc(y.mean((2, 3)))


def a_mask_by_size(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    mask = torch.ones(y.shape[0], 1, *y.shape[2:])
    mask[:, :, 0] = 0.0
    ramp = torch.arange(y.size(3)) / y.size(3)
    return m.fc((y * mask + ramp).mean((2, 3)))


def parts_of_several(m: nn.Module, x: Tensor) -> Tensor:
    first, second = m.conv(x).chunk(2, 1)
    values, _ = torch.max(torch.cat([second, first], 1).flatten(2), dim=2)
    return m.fc(values)


@pytest.mark.parametrize(
    "forward", [branches_on_shapes, hard_coded_batch, flat_by_number, in_place, in_place_on_a_view, a_mask_by_size, parts_of_several]
)
def test_record_computes_what_the_model_does_for_other_batches(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    module, model = recorded(Forward(forward), images()), Forward(forward).eval()
    with torch.no_grad():
        for count in (1, 2, 7):
            torch.testing.assert_close(module(images(count, count)), model(images(count, count)))


def test_record_leaves_out_what_computes_nothing() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.same(m.drop(m.conv(x))).contiguous().to(torch.float32)
        y = F.dropout(y, 0.2, training=m.training) + 0
        return m.fc((1 * y.view(y.shape)).mean((2, 3)).detach())

    assert calls(recorded(Forward(forward), images())) == ["conv", "mean", "fc"]


@dataclass
class Found:
    scores: Tensor
    extra: dict[str, Tensor]


def test_record_puts_out_the_tensors_of_a_dataclass_under_their_names() -> None:
    module = recorded(Forward(lambda m, x: Found(m.fc(m.conv(x).mean((2, 3))), {"map": m.conv(x)})), images())
    assert [tuple(part.shape) for part in module(images(2))] == [(2, 5), (2, 4, 8, 8)]
    output = next(node for node in module.graph.nodes if node.op == "output")
    assert output.meta["names"] == ["scores", "extra_map"]


def test_record_names_the_line_when_forward_decides_by_values() -> None:
    with pytest.raises(ModelError, match=rf"must not depend on the values of its inputs, but it reads one at {__file__}:\d+"):
        recorded(Forward(lambda m, x: m.fc(m.conv(x).mean((2, 3))) if x.sum() > 0 else x), images())


def test_record_folds_weight_norm_into_the_layer() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    wanted = model(images())
    module = recorded(model, images())
    assert type(module.get_submodule("0")) is nn.Conv2d
    torch.testing.assert_close(module(images()), wanted)


class Act(nn.BatchNorm2d):
    """A batch norm with an activation of its own, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps))


def test_record_raises_functions_with_weights_to_layers() -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.norm, self.table = nn.Parameter(torch.randn(4, 3, 3, 3)), Act(4), nn.Parameter(torch.randn(4, 6))
            self.gain = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(F.conv2d(x, self.kernel, stride=2)).mean((2, 3)) @ self.table
            return F.layer_norm(x, (6,), self.gain)

    model = Functions().eval()
    wanted, count = model(images()), sum(part.numel() for part in model.parameters())
    module = recorded(model, images())
    kinds = [type(part).__name__ for name, part in module.named_modules() if name and not list(part.children())]
    assert sorted(kinds) == ["BatchNorm2d", "Conv2d", "LayerNorm", "Linear", "ReLU"]
    torch.testing.assert_close(module(images()), wanted)
    assert sum(part.numel() for part in module.parameters()) == count


class Blur(nn.Module):
    """A depthwise convolution with a constant filter of a name of its own, which is read once, or twice in two ways."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.register_buffer("filt", torch.rand(3, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.filt, groups=3)
        if self.reads == "in another call":
            y = F.conv2d(y, self.filt, groups=3, stride=2)
        elif self.reads == "in a sum":
            y = y + self.filt.mean()
        return y


@pytest.mark.parametrize("reads", ["once", "in another call", "in a sum"])
def test_record_raises_a_convolution_whose_filter_has_another_name(reads: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Blur(reads)).eval()
    wanted, count = model(images()), sum(part.numel() for part in model.state_dict().values())
    module = recorded(model, images())
    assert sum(isinstance(part, nn.Conv2d) for part in module.modules()) == (3 if reads == "in another call" else 2)
    torch.testing.assert_close(module(images()), wanted)
    if reads == "once":
        assert sum(part.numel() for part in module.state_dict().values()) == count


class Halves(nn.Module):
    """Normalisations that scale without a shift, or shift without a scale."""

    def __init__(self, kind: str, *, scales: bool) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 8, 1)
        self.scale, self.shift = (nn.Parameter(torch.rand(8) + 0.5) if part else None for part in (scales, not scales))
        self.register_buffer("mean", torch.rand(8))
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "group":
            return F.group_norm(x, 2, self.scale, self.shift)
        if self.kind == "layer":
            return F.layer_norm(x.permute(0, 2, 3, 1), (8,), self.scale, self.shift)
        return F.batch_norm(x, self.mean, self.var, self.scale, self.shift)


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize(("kind", "layer"), [("group", nn.GroupNorm), ("layer", nn.LayerNorm), ("batch", nn.BatchNorm2d)])
def test_record_raises_norms_that_scale_or_shift_alone(kind: str, layer: type[nn.Module], scales: bool) -> None:
    model, x = Halves(kind, scales=scales).eval(), images()
    module = recorded(model, x)
    assert any(isinstance(part, layer) for part in module.modules())
    assert not any(part.is_meta for part in (*module.parameters(), *module.buffers()))
    torch.testing.assert_close(module(x), model(x))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


def plain(x: Tensor) -> Tensor:
    return x.clamp(min=0.0) * 2.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.parametrize("scripted", [False, True])
def test_record_follows_functions_that_are_no_functions_of_torch(scripted: bool) -> None:
    function = torch.jit.script(plain) if scripted else Doubled.apply

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(function(m.conv(x)).mean((2, 3)))

    module, model = recorded(Forward(forward), images()), Forward(forward).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(images(2, 1)), model(images(2, 1)))


def test_record_keeps_the_layers_of_torch_whole() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden, (last, _) = self.rnn(x.flatten(1, 2))
            return self.fc(hidden[:, -1] + last[0])

    module = recorded(Recurrent(), images())
    assert [name for name in calls(module) if name in ("rnn", "fc")] == ["rnn", "fc"]


def test_record_folds_what_depends_on_no_value_and_no_batch() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.conv(x)
        rows = torch.arange(y.shape[2], device=y.device).view(-1, 1).type_as(y)
        return m.fc((y + rows * m.scale).mean((2, 3)))

    assert calls(recorded(Forward(forward), images())) == ["conv", "add", "mean", "fc"]
