from __future__ import annotations

import torch
from torch import Tensor, nn

from paretopress.compress.recover.batch_statistics import recompute_batch_statistics


class SharedHead(nn.Module):
    """One batch norm that is called on two maps, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.1)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + self.norm(x[..., ::2, ::2]).mean()


def batches(count: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(8 + index, 3, 6, 6) * 2.0 + index for index in range(count)]


def test_recompute_is_of_all_values_when_batches_differ_in_size() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(3))
    recompute_batch_statistics(norm, batches())
    values = torch.cat(batches()).transpose(0, 1).flatten(1)
    assert torch.allclose(norm[0].running_mean, values.mean(1), atol=1e-5)
    assert torch.allclose(norm[0].running_var, values.var(1, correction=0), rtol=1e-4)


def test_recompute_counts_every_call_when_a_layer_is_shared() -> None:
    head = SharedHead()
    recompute_batch_statistics(head, batches())
    values = torch.cat([part.transpose(0, 1).flatten(1) for x in batches() for part in (x, x[..., ::2, ::2])], 1)
    assert torch.allclose(head.norm.running_mean, values.mean(1), atol=1e-5)
    assert torch.allclose(head.norm.running_var, values.var(1, correction=0), rtol=1e-4)
    assert head.norm.momentum == 0.1
    assert torch.equal(head.unused.running_var, torch.ones(2))
