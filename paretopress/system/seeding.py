"""Seed and restore the global random generators of torch, numpy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_NUMPY_SEEDS = 1 << 32


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave torch's, numpy's and Python's global generators as they were before a block, whatever is drawn in it."""
    python, legacy, mps = random.getstate(), np.random.get_state(), torch.backends.mps.is_available()
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    on_mps = torch.mps.get_rng_state() if mps else None
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators for a block; all are left as they were before it.

    Augmentation draws from any of the three: torchvision's from torch's, albumentations' from numpy's and Python's. Of torch's devices
    those are seeded that this process uses.
    """
    with undisturbed():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % _NUMPY_SEEDS)
        yield
