"""Photos with boxes: annotations in COCO's format, or in that of YOLO."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from paretopress.core.box_decoding import letterboxed
from paretopress.errors import DataError, typed_line
from paretopress.intake.datasets.data import Data, Sample, Split
from paretopress.system.object_spec import Spec, resolve

# (x1, y1, x2, y2, label from 1) in pixels of the photo
Box = tuple[float, float, float, float, int]
_FILL = 114  # the grey around a photo that is no square, as in the YOLO family
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_SHARES = (0.7, 0.15)
_COCO_HINT = "Give coco:IMAGES,ANNOTATIONS.json, or coco:IMAGES,TRAIN.json,VAL.json[,TEST.json]."
_YOLO_HINT = "Its train, val and test name folders of images or lists of them; labels lie in a folder `labels` beside `images`."


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its boxes."""

    path: Path
    boxes: tuple[Box, ...]


class BoxPhotos(Dataset[Sample]):
    """Letterboxed photos (3, size, size) float32 in [0, 1], with rows (objects, 5): a box in pixels of that square and a label from 1.

    Rows of zeros fill up to `objects`. With `flips` a photo is mirrored with a chance of one half.
    """

    def __init__(self, photos: Sequence[Photo], size: int, objects: int, *, flips: bool = False) -> None:
        self.photos, self.size, self.objects, self.flips = tuple(photos), size, objects, flips

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Sample:
        from PIL import Image
        from torchvision.transforms.functional import pil_to_tensor

        photo = self.photos[index]
        with Image.open(photo.path) as opened:
            image = opened.convert("RGB")
        scale, left, top = letterboxed(image.width, image.height, self.size)
        resized = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.BILINEAR)
        x = torch.full((3, self.size, self.size), float(_FILL))
        x[:, top : top + resized.height, left : left + resized.width] = pil_to_tensor(resized).float()
        rows = torch.zeros(self.objects, 5)
        for place, (*corners, label) in enumerate(photo.boxes[: self.objects]):
            shifted = torch.tensor(corners) * scale + torch.tensor([left, top, left, top])
            rows[place] = torch.cat([shifted, torch.tensor([float(label)])])
        x = x / 255.0
        return _mirrored(x, rows) if self.flips and torch.rand(()) < 0.5 else (x, rows)


def _mirrored(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    width, made = x.shape[-1], rows.clone()
    there = rows[:, 4] > 0
    made[there, 0], made[there, 2] = width - rows[there, 2], width - rows[there, 0]
    return x.flip(-1), made


def coco(spec: Spec, seed: int) -> Data:
    """Return the data of `coco:IMAGES,ANNOTATIONS.json?size=320`, or of a file for each split: `coco:IMAGES,TRAIN,VAL[,TEST]`.

    One file is cut 70/15/15 by `seed`, of two the second in halves. Crowds are left out.
    Source: the "Object Detection" format of cocodataset.org: boxes are (left, top, width, height).
    Raises: ConfigError: an unknown option. DataError: a file is missing or damaged.
    """
    spec.allow("size", argument="IMAGES,ANNOTATIONS.json")
    folder, *files = (resolve(part.strip(), spec.base) for part in spec.argument.split(","))
    if not 1 <= len(files) <= 3 or not folder.is_dir():
        raise DataError(f"a coco spec must name a folder of images and one to three files, but got {spec.text!r}", _COCO_HINT)
    read = [_coco_photos(folder, path) for path in files]
    names = read[0][1]
    return _data([photos for photos, _ in read], names, spec.integer("size", 320, minimum=32), seed)


def _coco_photos(folder: Path, path: Path) -> tuple[list[Photo], tuple[str, ...]]:
    try:
        held = json.loads(path.read_text())
        images = {image["id"]: image["file_name"] for image in held["images"]}
        kinds = sorted(held["categories"], key=lambda kind: kind["id"])
        label_of = {kind["id"]: label for label, kind in enumerate(kinds, 1)}
        boxes: dict[Any, list[Box]] = {}
        for note in held["annotations"]:
            left, top, width, height = (float(part) for part in note["bbox"])
            if not note.get("iscrowd") and width > 0.0 and height > 0.0:
                boxes.setdefault(note["image_id"], []).append((left, top, left + width, top + height, label_of[note["category_id"]]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} must be a file of COCO annotations, but got {typed_line(error)}", _COCO_HINT) from error
    return [Photo(folder / name, tuple(boxes.get(key, ()))) for key, name in images.items()], tuple(str(kind["name"]) for kind in kinds)


def yolo(spec: Spec, seed: int) -> Data:
    """Return the data of `yolo:data.yaml?size=320`: train and val, and test where it is named, else half of val.

    Source: the "Ultralytics YOLO format": a line for each object, class from 0, then centre and size as shares of the photo.
    Raises: ConfigError: an unknown option. DataError: a file is missing or damaged.
    """
    import yaml  # Optuna brings it

    spec.allow("size", argument="data.yaml")
    path = resolve(spec.argument, spec.base)
    try:
        held = yaml.safe_load(path.read_text())
        root = path.parent / str(held.get("path") or ".")
        names = held["names"]
        named = tuple(str(names[key]) for key in sorted(names)) if isinstance(names, Mapping) else tuple(map(str, names))
        splits = [_yolo_photos(root, held[split], path) for split in ("train", "val", "test") if held.get(split)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise DataError(f"{path} must describe YOLO data, but got {typed_line(error)}", _YOLO_HINT) from error
    if len(splits) < 2:
        raise DataError(f"{path} must name train and val, but got {len(splits)} of them", _YOLO_HINT)
    return _data(splits, named, spec.integer("size", 320, minimum=32), seed)


def _yolo_photos(root: Path, named: Any, source: Path) -> list[Photo]:
    found: list[Path] = []
    for part in named if isinstance(named, list) else [named]:
        place = root / str(part)
        if place.is_dir():
            found += sorted(file for file in place.rglob("*") if file.suffix.lower() in _SUFFIXES)
        elif place.is_file():
            lines = (line.strip() for line in place.read_text().splitlines())
            found += [root / line.removeprefix("./") for line in lines if line]
        else:
            raise DataError(f"{source.name} names {place}, which is not there", _YOLO_HINT)
    return [Photo(file, _yolo_boxes(file)) for file in found]


def _yolo_boxes(photo: Path) -> tuple[Box, ...]:
    parts = list(photo.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    labels = Path(*parts).with_suffix(".txt")
    if not labels.is_file():
        return ()  # a photo without objects has no file
    from PIL import Image

    with Image.open(photo) as opened:
        width, height = opened.size
    boxes = []
    for line in labels.read_text().splitlines():
        values = [float(part) for part in line.split()]
        if len(values) < 5:
            continue
        kind, x, y, w, h = values[:5]
        boxes.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height, int(kind) + 1))
    return tuple(boxes)


def _data(splits: list[list[Photo]], names: tuple[str, ...], size: int, seed: int) -> Data:
    parts = _three(splits, seed)
    missing = next((photo.path for photo in (photo for part in parts for photo in part) if not photo.path.is_file()), None)
    if missing is not None:
        raise DataError(f"every photo that is named must be there, but {missing} is not", "Check the folder of the images.")
    objects = max((len(photo.boxes) for part in parts for photo in part), default=0)
    train, val, test = (_split(part, size, max(objects, 1), flips=place == 0) for place, part in enumerate(parts))
    return Data(train, val, test, names, {"color": "RGB", "letterbox": size, "fill": _FILL, "scale": 1 / 255})


def _split(photos: list[Photo], size: int, objects: int, *, flips: bool) -> Split:
    return BoxPhotos(photos, size, objects, flips=flips)


def _three(splits: list[list[Photo]], seed: int) -> list[list[Photo]]:
    """Return train, val and test; what is cut is cut at random."""

    def cut(photos: list[Photo], *shares: float) -> list[list[Photo]]:
        order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed)).tolist()
        ends = [round(sum(shares[: place + 1]) * len(photos)) for place in range(len(shares))]
        bounds = [0, *ends, len(photos)]
        return [[photos[index] for index in order[first:last]] for first, last in itertools.pairwise(bounds)]

    if len(splits) == 1:
        return cut(splits[0], *_SHARES)
    return [*splits[:1], *cut(splits[1], 0.5)] if len(splits) == 2 else splits
