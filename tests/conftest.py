"""Small real models that the tests of several parts share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import torch
from loopback_database import missing, running_database
from moto.server import ThreadedMotoServer
from odd_onnx import make_odd
from skips import need, pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # hooks: to be here is all they need
from torch import Tensor, nn

from paretopress.core.plan import Plan
from paretopress.lower.export import export_onnx
from paretopress.spaces.knobs import Knob


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip: identity, or a strided 1x1 convolution."""

    def __init__(self, inputs: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.down = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.down is None else self.down(x)))


class TinyNet(nn.Module):
    """Stem 8, an identity block, a strided block to 16, a depthwise layer and a classifier of 4: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.block1 = Residual(8, 8)
        self.block2 = Residual(8, 16, 2)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(torch.relu(self.stem(x))))
        x = torch.relu(self.depthwise(x))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Attends(nn.Module):
    """Patches of 4x4 pixels, a token of its own, two blocks of attention with 4 heads, in the order that nn.MultiheadAttention wants."""

    def __init__(self, *, batch_first: bool = True, bias: bool = True) -> None:
        super().__init__()
        width = 32
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.attentions = nn.ModuleList([nn.MultiheadAttention(width, 4, bias=bias, batch_first=batch_first) for _ in range(2)])
        self.first, self.second, self.fc = nn.Linear(width, 48), nn.Linear(48, width), nn.Linear(width, 4)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x if self.batch_first else x.transpose(0, 1)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            y = norm(x)
            x = x + attention(y, y, y, need_weights=False)[0]
        x = x + self.second(nn.functional.gelu(self.first(x)))
        return self.fc(x[:, 0] if self.batch_first else x[0])


def with_lived_in_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return the model in eval mode with batch-norm statistics and scales as if it had been trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, *shape))
    return model.eval()


@pytest.fixture
def tiny() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_lived_in_statistics(TinyNet(), (3, 8, 8))


@pytest.fixture
def attends() -> Callable[..., nn.Module]:
    """Makes an untrained network with attention: (N, 3, 8, 8) -> (N, 4)."""

    def make(**options: bool) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Attends(**options).eval()

    return make


@pytest.fixture
def odd_file(tiny: nn.Module, images: Tensor) -> Callable[[Path], Path]:
    """Writes the tiny network to a folder as odd.onnx, with an activation that onnx2torch does not know, and returns its path."""

    def write(folder: Path) -> Path:
        path = folder / "odd.onnx"
        export_onnx(tiny, images, path)
        make_odd(path)
        return path

    return write


@pytest.fixture
def images() -> Tensor:
    """(6, 3, 8, 8) float32."""
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URL of a PostgreSQL server; what needs it is skipped where none is installed."""
    need(missing())
    # not in a folder of pytest, which shuts its folders to other accounts whenever another pytest of this user starts
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, running_database(Path(folder, "server")) as server:
        yield server.url


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The spec of an empty bucket on an S3 server of this process, which child processes find too."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        boto3.client("s3").create_bucket(Bucket="press")
        yield "s3://press"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def turned_knobs() -> Callable[[Plan], set[Knob]]:
    """What returns the knobs that a plan turns."""
    unchanged = Plan()

    def turned(plan: Plan) -> set[Knob]:
        found = {
            Knob.PRUNE: any(plan.kept.values()),
            Knob.BRANCHES: 0 in plan.kept.values(),
            Knob.BITS: bool(plan.bits),
            Knob.RANK: bool(plan.rank),
            Knob.DISTILLATION: (plan.temperature, plan.alpha) != (unchanged.temperature, unchanged.alpha),
        }
        return {knob for knob, is_turned in found.items() if is_turned}

    return turned
