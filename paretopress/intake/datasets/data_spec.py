"""Load data from a spec: a factory in a user's file, or one of the sources that are known by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paretopress.errors import ConfigError, DataError
from paretopress.intake.datasets.boxes import coco, yolo
from paretopress.intake.datasets.data import Data, as_data
from paretopress.intake.datasets.digits import digits
from paretopress.intake.datasets.fashion_mnist import fashion_mnist
from paretopress.intake.datasets.vision_data import folder, torchvision_dataset
from paretopress.system.object_spec import Spec, parse_spec
from paretopress.system.user_factory import call_factory, is_factory

SOURCES: dict[str, Callable[[Spec, int], Data]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "folder": folder,
    "torchvision": torchvision_dataset,
    "coco": coco,
    "yolo": yolo,
}
DATA_FORMS = (
    "FILE.py:FACTORY",
    "digits?size=16",
    "fashion-mnist?root=PATH",
    "folder:PATH?size=224",
    "torchvision:CIFAR10?root=PATH&download=0",
    "coco:IMAGES,ANNOTATIONS.json?size=320",
    "yolo:data.yaml?size=320",
)


def load_data(spec: str, *, base: Path | None = None, seed: int = 0) -> Data:
    """Return the data that `spec` names; its forms are DATA_FORMS.

    Args:
        base: the folder that relative paths start from; default: the working folder.
        seed: of every split that is cut at random.
    Raises: ConfigError: an unknown form, source or option. DataError: the data cannot be read, or a factory raised.
    """
    if is_factory(spec):
        return as_data(call_factory(spec, base, DataError), seed)
    parsed = parse_spec(spec, base)
    source = SOURCES.get(parsed.kind)
    if source is None:
        raise ConfigError(f"a data spec must have a known form, but got {spec!r}", f"Valid forms: {', '.join(DATA_FORMS)}.")
    return source(parsed, seed)
