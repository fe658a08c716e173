from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.compress.apply import compress_module
from paretopress.core.model_graph import ChannelGroup, Role
from paretopress.core.plan import Plan
from paretopress.evaluators.macs import count_macs
from paretopress.intake.trace import Intake, take_in


class Parts(nn.Module):
    """Layers by name, and a forward over them."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


def head(width: int) -> nn.Linear:
    return nn.Linear(width, 4)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def prelu() -> nn.Module:
    return Parts(lambda m, x: m.out(pooled(m.act(m.a(x)))), a=conv(3, 8), act=nn.PReLU(), out=head(8))


def gate_of_one_channel() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(pooled(y * torch.sigmoid(m.gate(y))))

    return Parts(forward, a=conv(3, 8), gate=conv(8, 1), out=head(8))


def squeeze() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(pooled(y * torch.sigmoid(m.up(torch.relu(m.down(y.mean((2, 3), keepdim=True)))))))

    return Parts(forward, a=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), out=head(8))


def group_norm() -> nn.Module:
    return Parts(lambda m, x: m.out(pooled(m.norm(m.a(x)))), a=conv(3, 8), norm=nn.GroupNorm(4, 8), out=head(8))


def layer_norm() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.out(pooled(m.norm(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))

    return Parts(forward, a=conv(3, 8), norm=nn.LayerNorm(8), out=head(8))


def grouped() -> nn.Module:
    return Parts(lambda m, x: m.out(pooled(m.b(torch.relu(m.a(x))))), a=conv(3, 8), b=conv(8, 12, groups=4), out=head(12))


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(8, 6, 2, 2)
    return Parts(lambda m, x: m.out(pooled(torch.relu(m.up(torch.relu(m.a(x)))))), a=conv(3, 8), up=up, out=head(6))


def pixel_shuffle() -> nn.Module:
    return Parts(lambda m, x: m.out(pooled(m.b(F.pixel_shuffle(m.a(x), 2)))), a=conv(3, 16), b=conv(4, 6), out=head(6))


def dense() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a = m.a(x)
        b = m.b(torch.relu(a))
        return m.out(pooled(m.c(torch.cat([a, b, x], 1))))

    return Parts(forward, a=conv(3, 8), b=conv(8, 6), c=conv(17, 4, 1), out=head(4))


def with_itself() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(pooled(m.b(torch.cat([y, y], 1))))

    return Parts(forward, a=conv(3, 8), b=conv(16, 4, 1), out=head(4))


def gated_linear() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        value, gate = m.a(pooled(x)).chunk(2, -1)
        return m.out(value * F.silu(gate))

    return Parts(forward, a=nn.Linear(3, 16), out=head(8))


def flattened() -> nn.Module:
    return Parts(lambda m, x: m.out(F.max_pool2d(m.a(x), 4).view(-1, 32)), a=conv(3, 8), out=head(32))


def called_twice() -> nn.Module:
    return Parts(lambda m, x: m.out(pooled(m.b(m.b(m.a(x))))), a=conv(3, 8), b=conv(8, 8), out=head(8))


def test_take_in_counts_the_macs_of_all_calls_of_a_layer(images: Tensor) -> None:
    intake = take_in(called_twice().eval(), images[:2])
    macs = {layer.name: layer.macs for layer in intake.graph.layers}
    assert macs["b"] == 2 * 8 * 8 * 9 * images.shape[2] * images.shape[3]
    assert sum(macs.values()) == count_macs(intake.module, images[:2]).macs


Expected = dict[str, tuple[int, int, tuple[str, ...], tuple[str, ...]]]


# model -> name -> (channels, unit, layers, feeds)
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(prelu, {"a": (8, 1, ("a",), ("out",))}, id="PReLU of one parameter"),
        pytest.param(gate_of_one_channel, {"a": (8, 1, ("a",), ("gate", "out"))}, id="gate of one channel"),
        pytest.param(squeeze, {"a": (8, 1, ("a", "up"), ("down", "out")), "down": (4, 1, ("down",), ("up",))}, id="squeeze and excite"),
        pytest.param(group_norm, {"a": (8, 2, ("a",), ("out",))}, id="GroupNorm"),
        pytest.param(layer_norm, {"a": (8, 1, ("a",), ("out",))}, id="LayerNorm"),
        pytest.param(grouped, {"a": (8, 2, ("a", "b"), ("b", "out"))}, id="grouped convolution"),
        pytest.param(transposed, {"a": (8, 1, ("a",), ())}, id="ConvTranspose"),
        pytest.param(pixel_shuffle, {"a": (16, 4, ("a",), ("b",)), "b": (6, 1, ("b",), ("out",))}, id="PixelShuffle"),
        pytest.param(
            dense, {"a": (8, 1, ("a",), ("b", "c")), "b": (6, 1, ("b",), ("c",)), "c": (4, 1, ("c",), ("out",))}, id="dense concatenation"
        ),
        pytest.param(with_itself, {"a": (8, 1, ("a",), ("b",)), "b": (4, 1, ("b",), ("out",))}, id="concatenation with itself"),
        pytest.param(gated_linear, {"a": (16, 2, ("a",), ("out",))}, id="gated linear unit"),
        pytest.param(flattened, {"a": (8, 1, ("a",), ("out",))}, id="flattened to a number"),
        pytest.param(called_twice, {"a": (8, 1, ("a", "b"), ("b", "out"))}, id="called twice"),
    ],
)
def test_take_in_finds_the_groups_of(make: Callable[[], nn.Module], expected: Expected, images: Tensor) -> None:
    torch.manual_seed(0)
    graph = take_in(make().eval(), images[:2]).graph
    assert {group.name: (group.channels, group.unit, group.layers, group.feeds) for group in graph.channel_groups} == expected


@pytest.mark.parametrize("make", [group_norm, grouped, transposed, pixel_shuffle, dense, with_itself, gated_linear, flattened, squeeze])
def test_compress_module_prunes_every_group_as_if_it_were_silent(make: Callable[[], nn.Module], images: Tensor) -> None:
    torch.manual_seed(0)
    intake = take_in(make().eval(), images[:2])
    for group in intake.graph.channel_groups:
        pruned = compress_module(intake.module, intake.graph, Plan(kept={group.name: group.channels - group.unit}))
        left = set(pruned.kept.outputs[group.name])
        silenced = copy.deepcopy(intake.module)
        with torch.no_grad():
            for part in group.parts:
                if part.role is Role.OUTPUTS:
                    _silence(silenced.get_submodule(part.path), _gone(group, part.index, left))
        with torch.inference_mode():
            torch.testing.assert_close(pruned.module(images), silenced(images), rtol=1e-4, atol=1e-5)


def _gone(group: ChannelGroup, index: tuple[int, ...], left: set[int]) -> list[int]:
    """Return the entries of a part that belong to the blocks whose rows of the first layer are not left."""
    lead = next(part for part in group.parts if part.path == group.name and part.role is Role.OUTPUTS)
    each, mine = len(lead.index) // group.blocks, len(index) // group.blocks
    return [
        entry for block in range(group.blocks) if lead.index[block * each] not in left for entry in index[block * mine : (block + 1) * mine]
    ]


def _silence(layer: nn.Module, rows: list[int]) -> None:
    layer.weight.index_fill_(1 if isinstance(layer, nn.ConvTranspose2d) else 0, torch.tensor(rows), 0.0)
    if layer.bias is not None:
        layer.bias.index_fill_(0, torch.tensor(rows), 0.0)


class Heads(nn.Module):
    """Attention over 4x4 patches: with one layer for queries, keys and values in some order, or shared keys and values."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.heads, self.width = form, 4, 8
        self.patches = nn.Conv2d(3, 32, 4, 4)
        shared = 2 if form == "shared keys" else 4
        self.qkv = nn.Linear(32, 8 * (4 + 2 * shared))
        self.norm_q, self.out, self.fc = nn.LayerNorm(8), nn.Linear(32, 32), nn.Linear(32, 4)
        self.bias = nn.Parameter(torch.randn(4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        count, tokens, width = x.shape
        packed = self.qkv(x)
        if self.form == "shared keys":
            q, k, v = packed.split([32, 16, 16], -1)
            q = q.view(count, tokens, 4, 8).transpose(1, 2)
            k, v = (part.view(count, tokens, 2, 8).transpose(1, 2).repeat_interleave(2, 1) for part in (k, v))
        elif self.form == "heads first":
            q, k, v = packed.view(count, tokens, 4, 3, 8).permute(3, 0, 2, 1, 4)
        elif self.form == "chunks":
            q, k, v = (part.view(count, tokens, self.heads, -1).transpose(1, 2) for part in packed.chunk(3, -1))
        else:
            q, k, v = packed.reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "normed":
            q = self.norm_q(q)
        if self.form == "by hand":
            scores = (q * self.width**-0.5) @ k.transpose(-2, -1) + self.bias
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.fc((x + self.out(y.transpose(1, 2).reshape(count, tokens, width))).mean(1))


@pytest.mark.parametrize("form", ["packed", "heads first", "chunks", "normed", "by hand"])
def test_take_in_finds_heads_however_they_are_packed(form: str, images: Tensor) -> None:
    torch.manual_seed(0)
    intake = take_in(Heads(form).eval(), images[:2])
    groups = {group.name: group for group in intake.graph.channel_groups}
    assert (groups["qkv"].channels, groups["qkv"].unit, groups["qkv"].feeds) == (96, 24, ("out",))
    pruned = compress_module(intake.module, intake.graph, Plan(kept={"qkv": 48})).module
    assert (pruned.get_submodule("qkv").out_features, pruned.get_submodule("out").in_features) == (48, 16)


def spelled(form: str) -> nn.Module:
    """Return one residual block and what is around it, in one of many spellings."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        if form == "slices":
            y = m.body[3:](m.body[:3](x))
        elif form == "functions":
            y = m.body[4](F.conv2d(F.relu(m.body[1](m.body[0](x))), m.body[3].weight, m.body[3].bias, padding=1))
        else:
            y = m.body(x)
        if form == "Identity":
            y = m.drop(y) + m.same(x)
        elif form == "in place":
            y += x
        elif form == "torch.add":
            y = torch.add(y, x)
        elif form == "method":
            y = y.add(x)
        elif form == "FloatFunctional":
            y = m.add.add(y, x)
        elif form == "views":
            y = y.view(y.shape).to(torch.float32).contiguous() + x.view_as(y) * 1 + 0
        else:
            y = y + x
        return m.out(m.act(y).mean((2, 3)) if form != "method" else y.relu().mean(dim=[2, 3]))

    torch.manual_seed(0)
    body = nn.Sequential(conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(inplace=form == "in place"), conv(12, 8), nn.BatchNorm2d(8))
    more = {"same": nn.Identity(), "drop": nn.Dropout(0.2), "add": torch.ao.nn.quantized.FloatFunctional()}
    return Parts(forward, stem=conv(3, 8), body=body, act=nn.ReLU(), out=head(8), **more)


SPELLINGS = ("plain", "Identity", "in place", "torch.add", "method", "FloatFunctional", "slices", "functions", "views")


def graph_of(form: str, images: Tensor) -> Intake:
    return take_in(spelled(form).eval(), images[:2])


@pytest.mark.parametrize("form", SPELLINGS)
def test_take_in_finds_one_structure_in_all_spellings_of_a_block(form: str, images: Tensor) -> None:
    plain, other = graph_of("plain", images).graph, graph_of(form, images).graph
    assert (other.layers, other.channel_groups, other.bit_groups) == (plain.layers, plain.channel_groups, plain.bit_groups)
    assert [(branch.group, branch.layers) for branch in other.branches] == [("body.0", ("body.0", "body.3"))]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)])
def test_take_in_finds_branches_under_any_norm(norm: nn.Module, images: Tensor) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.out(pooled(torch.relu(m.norm(m.a(x)) + x)))

    graph = take_in(Parts(forward, stem=conv(3, 8), a=conv(8, 8), norm=norm, out=head(8)).eval(), images[:2]).graph
    assert [branch.layers for branch in graph.branches] == [("a",)]


def test_take_in_finds_branches_that_reshape_by_their_own_sizes(images: Tensor) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.a(x)
        count, width, rows, columns = y.shape
        y = y.reshape(count, width, rows * columns).transpose(1, 2).transpose(1, 2).reshape(count, width, rows, columns)
        return m.out(pooled(torch.relu(x + m.b(y))))

    intake = take_in(Parts(forward, stem=conv(3, 8), a=conv(8, 16), b=conv(16, 8), out=head(8)).eval(), images[:2])
    assert [branch.layers for branch in intake.graph.branches] == [("a", "b")]
    assert all(node.users for node in intake.module.graph.nodes if node.op not in ("placeholder", "output"))


def test_take_in_finds_branches_whose_skip_has_its_sizes_read(images: Tensor) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.stem(x)
        mask = torch.arange(x.size(0)).reshape(-1, 1, 1, 1) * 0.1  # of the number of items, and read behind the branch too
        x = torch.relu(x + m.b(torch.relu(m.a(x)) + mask))
        return m.out(pooled(x + mask))

    intake = take_in(Parts(forward, stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), out=head(8)).eval(), images[:2])
    assert [branch.layers for branch in intake.graph.branches] == [("a", "b")]


def rms_norm(m: nn.Module, x: Tensor) -> Tensor:
    """The norm of many an encoder, in plain functions."""
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * m.scale.weight.reshape(1, -1, 1, 1)


def spatial_attention(m: nn.Module, x: Tensor) -> Tensor:
    """A gate for each place by the mean and the maximum over the channels (Woo et al. 2018, "CBAM")."""
    maps = torch.cat([torch.mean(x, dim=1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
    return x * torch.sigmoid(m.gate(maps))


@pytest.mark.parametrize("over", [rms_norm, spatial_attention])
def test_take_in_prunes_channels_under_a_mean_over_them(over: Callable[[nn.Module, Tensor], Tensor], images: Tensor) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.out(pooled(over(m, torch.relu(m.a(x)))))

    parts = {"scale": nn.BatchNorm2d(16)} if over is rms_norm else {"gate": conv(2, 1)}
    model = Parts(forward, a=conv(3, 16), out=head(16), **parts).eval()
    with torch.no_grad():
        for part in parts.values():
            part.weight.mul_(10.0)  # what they put out counts
    intake = take_in(model, images[:2])
    assert "a" in {group.name for group in intake.graph.channel_groups}
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(images), model(images))
