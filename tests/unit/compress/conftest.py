from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from paretopress.intake.trace import Intake, take_in


@pytest.fixture
def intake(tiny: nn.Module, images: Tensor) -> Intake:
    return take_in(tiny, images[:2])


@pytest.fixture
def train() -> TensorDataset:
    """64 images of noise with labels of 4 classes."""
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(64, 3, 8, 8, generator=generator), torch.randint(0, 4, (64,), generator=generator))
