from __future__ import annotations

import pytest
from torch import Tensor, nn

from paretopress.intake.trace import Intake, take_in


@pytest.fixture
def intake(tiny: nn.Module, images: Tensor) -> Intake:
    return take_in(tiny, images[:2])
