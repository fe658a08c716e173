from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from paretopress.intake.trace import take_in
from paretopress.lower.export import export_onnx


class Windows(nn.Module):
    """Windows of a map as items of their own, whose number depends on the batch, put back by sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = self.conv(x).shape
        parts = self.conv(x).reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        parts = self.inner(parts).softmax(-1)
        return parts.view(n, h // 2, w // 2, 4, c).mean((1, 2)).flatten(1)


def test_export_reads_no_fixed_size_when_windows_are_items(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8)
    model = Windows().eval()
    export_onnx(take_in(model, images).module, images, tmp_path / "windows.onnx")
    session = ort.InferenceSession(str(tmp_path / "windows.onnx"))
    for count in (1, 5):
        x = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            wanted = model(x)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)
    assert sum(node.op_type == "Shape" for node in onnx.load(tmp_path / "windows.onnx").graph.node) <= 1
