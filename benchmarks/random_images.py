"""Random images at 224x224 for structural checks of torchvision models with random weights; accuracy on them means nothing."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

CLASSES = 10


def data() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Return 64 train, 16 val and 16 test images (3, 224, 224) with labels below 10."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorDataset:
        return TensorDataset(torch.randn(count, 3, 224, 224, generator=generator), torch.randint(0, CLASSES, (count,), generator=generator))

    return split(64), split(16), split(16)
