"""The handwritten digits inside scikit-learn: 1,797 grey images of 8x8 pixels with values 0 to 16."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from paretopress.errors import ConfigError
from paretopress.intake.datasets.data import Data, stratified
from paretopress.intake.datasets.images import Augmentation, Images, Normalisation
from paretopress.system.object_spec import Spec

RAW_SIZE = 8
NORMALISATION = Normalisation(scale=1 / 16, mean=(0.305,), std=(0.376,))
SHARES = (0.6, 0.2, 0.2)
CLASSES = tuple("0123456789")


def digits(spec: Spec, seed: int) -> Data:
    """Return the data of `digits` or `digits?size=16`: x (1, size, size), split 60/20/20 within each class by `seed`.

    Training images are shifted by up to an eighth of their size.
    Raises: ConfigError: an unknown option, or scikit-learn is not installed.
    """
    spec.allow("size")
    size = spec.integer("size", RAW_SIZE, minimum=4)
    raw, labels = _raw_digits()
    if size != RAW_SIZE:
        raw = nn.functional.interpolate(raw, (size, size), mode="bilinear", align_corners=False)
    parts = [torch.tensor(part) for part in stratified(labels, SHARES, seed)]
    augmentations = (Augmentation(shift=size // 8), None, None)
    train, val, test = (
        Images(raw[part], labels[part], NORMALISATION, classes=CLASSES, augmentation=augmentation)
        for part, augmentation in zip(parts, augmentations, strict=True)
    )
    steps = {"color": "grey", "resize": size, "interpolation": "bilinear", **NORMALISATION.to_json()}
    return Data(train, val, test, CLASSES, steps)


def _raw_digits() -> tuple[Tensor, Tensor]:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ConfigError(
            f"the data spec digits needs scikit-learn, but got {type(error).__name__}: {error}", "Run: pip install 'paretopress[demo]'"
        ) from error
    bunch = datasets.load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1), torch.tensor(bunch.target, dtype=torch.int64)
