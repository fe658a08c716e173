"""Data through torchvision: folders of images, and the datasets that torchvision knows by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from paretopress.errors import ConfigError, DataError, first_line, nearest, typed_line
from paretopress.intake.datasets.data import Data, Sample, Split, as_data, cut, labels_of, shuffled, split_size, stratified
from paretopress.system.object_spec import Spec, resolve

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN_MEAN, PLAIN_STD = 0.5, 0.25
RESIZE_TO_CROP = 256 / 224
FLAT_SHARES = (0.70, 0.15, 0.15)
VAL_SHARE = 10  # one in ten of train becomes val where there is none
VAL_NAMES = ("val", "valid", "validation")
FOLDER_HINT = "Give PATH/train/CLASS/..., PATH/val/CLASS/... and PATH/test/CLASS/..., PATH/CLASS/... alone, or images without labels."


def folder(spec: Spec, seed: int) -> Data:
    """Return the data of `folder:PATH?size=224`: x (3, size, size) with ImageNet's mean and std.

    PATH has train, val and test; or two of them, the third is cut off (test off val, val off train); or class folders alone, which
    are split 70/15/15 within each class; or images alone, which have no labels. Training images are cropped at random and flipped; val and
    test come in a seeded order.
    Raises: ConfigError: an unknown option. DataError: not such a folder, or no images in it.
    """
    spec.allow("size", argument="PATH")
    size = spec.integer("size", 224, minimum=8)
    root = resolve(spec.argument, spec.base)
    if not root.is_dir():
        raise DataError(f"the folder must exist, but got {root} in the spec {spec.text!r}", FOLDER_HINT)
    if not any(entry.is_dir() for entry in root.iterdir()):
        splits = _unlabelled(root, size, seed)
    else:
        splits = _parted(root, size, seed) if (root / "train").is_dir() else _flat(root, size, seed)
    steps = {
        "color": "RGB",
        "resize": round(size * RESIZE_TO_CROP),
        "crop": size,
        "interpolation": "bilinear",
        "scale": 1 / 255,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }
    return replace(as_data(splits, seed), preprocessing=steps)


def _parted(root: Path, size: int, seed: int) -> tuple[Split, ...]:
    train = _images(root / "train", _augmented(size))
    val = next((_images(root / name, _centred(size)) for name in VAL_NAMES if (root / name).is_dir()), None)
    test = _images(root / "test", _centred(size)) if (root / "test").is_dir() else None
    if val is None and test is None:
        raise DataError(f"a folder with train must have val or test beside it, but got {root}", FOLDER_HINT)
    if val is None:
        kept, held = cut(train, split_size(train) // VAL_SHARE, seed)
        train, val = kept, Subset(_images(root / "train", _centred(size)), held.indices)
    return (train, shuffled(val, seed)) if test is None else (train, shuffled(val, seed), shuffled(test, seed))


def _flat(root: Path, size: int, seed: int) -> tuple[Split, ...]:
    plain = _images(root, _centred(size))
    labels = labels_of(plain)
    assert labels is not None
    train, val, test = stratified(labels, FLAT_SHARES, seed)
    return Subset(_images(root, _augmented(size)), train), Subset(plain, val), Subset(plain, test)


class Photos(Dataset[Sample]):
    """Photos without labels: an item is x alone."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Any], torch.Tensor]) -> None:
        self.files, self.transform = tuple(files), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(self.files[index]) as opened:
            return self.transform(opened.convert("RGB"))


def _unlabelled(root: Path, size: int, seed: int) -> tuple[Split, ...]:
    import torchvision  # two seconds that only those wait for who name it

    suffixes = tuple(torchvision.datasets.folder.IMG_EXTENSIONS)
    files = sorted(file for file in root.iterdir() if file.suffix.lower() in suffixes)
    if len(files) < 3:
        raise DataError(f"{root} must hold one folder of images for each class, or at least 3 images, but got {len(files)}", FOLDER_HINT)
    train, val, test = stratified(torch.zeros(len(files), dtype=torch.int64), FLAT_SHARES, seed)
    parts = ((train, _augmented(size)), (val, _centred(size)), (test, _centred(size)))
    return tuple(Photos([files[index] for index in indices], transform) for indices, transform in parts)


def _images(root: Path, transform: Callable[[Any], torch.Tensor]) -> Split:
    import torchvision  # two seconds that only those wait for who name it

    try:
        dataset: Split = torchvision.datasets.ImageFolder(root, transform)
    except OSError as error:  # no class folders, or one without an image
        raise DataError(f"{root} must hold one folder of images for each class: {first_line(error)}", FOLDER_HINT) from error
    return dataset


def _centred(size: int) -> Callable[[Any], torch.Tensor]:
    from torchvision import transforms

    steps = [transforms.Resize(round(size * RESIZE_TO_CROP)), transforms.CenterCrop(size)]
    return _then_normalised(steps, IMAGENET_MEAN, IMAGENET_STD)


def _augmented(size: int) -> Callable[[Any], torch.Tensor]:
    from torchvision import transforms

    return _then_normalised([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()], IMAGENET_MEAN, IMAGENET_STD)


def _then_normalised(steps: list[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Any], torch.Tensor]:
    from torchvision import transforms

    composed: Callable[[Any], torch.Tensor] = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    return composed


def torchvision_dataset(spec: Spec, seed: int) -> Data:
    """Return the data of `torchvision:CIFAR10?root=PATH&download=0`: x = (pixel / 255 - 0.5) / 0.25, not augmented.

    Any class of torchvision.datasets with a `train` or `split` argument. Without a val split a tenth of train becomes val; without a
    test split half of val becomes test. `root` is ./data where not given; val and test come in a seeded order.
    Raises: ConfigError: an unknown option or class. DataError: the files are missing, or the download failed.
    """
    spec.allow("root", "download", argument="CLASS")
    dataset_class = _dataset_class(spec.argument)
    options: dict[str, Any] = {"root": spec.path("root") or resolve("data", spec.base)}
    parameters = inspect.signature(dataset_class).parameters
    if "download" in parameters:
        options["download"] = spec.switch("download", default=False)
    options["transform"] = _then_normalised([], (PLAIN_MEAN,), (PLAIN_STD,))
    if "train" in parameters:
        found = [_construct(dataset_class, spec, options, train=True), None, _construct(dataset_class, spec, options, train=False)]
    else:
        found = [_first_split(dataset_class, spec, options, names) for names in (("train", "trainval"), VAL_NAMES, ("test",))]
    train, val, test = found
    if train is None or (val is None and test is None):
        raise DataError(f"a dataset must have train and one of val and test, but torchvision's {spec.argument} has not")
    if val is None:
        train, val = cut(train, split_size(train) // VAL_SHARE, seed)
    data = as_data((train, shuffled(val, seed)) if test is None else (train, shuffled(val, seed), shuffled(test, seed)), seed)
    return replace(data, preprocessing={"scale": 1 / 255, "mean": [PLAIN_MEAN], "std": [PLAIN_STD]})


def _dataset_class(name: str) -> Callable[..., Split]:
    import torchvision

    classes: dict[str, Any] = {key: value for key, value in vars(torchvision.datasets).items() if inspect.isclass(value)}
    known = [key for key, value in classes.items() if {"train", "split"} & inspect.signature(value).parameters.keys()]
    if name not in known:
        raise ConfigError(f"torchvision has no dataset {name!r} with a train or split argument", f"Did you mean {nearest(name, known)}?")
    dataset_class: Callable[..., Split] = classes[name]
    return dataset_class


def _first_split(dataset_class: Callable[..., Split], spec: Spec, options: dict[str, Any], names: tuple[str, ...]) -> Split | None:
    for name in names:
        try:
            return _construct(dataset_class, spec, options, split=name)
        except DataError as error:
            if not isinstance(error.__cause__, ValueError):  # torchvision's word for a split that this dataset does not have
                raise
    return None


def _construct(dataset_class: Callable[..., Split], spec: Spec, options: dict[str, Any], **part: object) -> Split:
    try:
        return dataset_class(**options, **part)
    except (OSError, RuntimeError, ImportError, TypeError, ValueError) as error:
        hint = "Give root=PATH of the files, or download=1 to fetch them."
        raise DataError(f"torchvision's {spec.argument} could not be read from {options['root']}: {typed_line(error)}", hint) from error
