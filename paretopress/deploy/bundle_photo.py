"""Find objects in a photo with this bundle, and draw them; needs numpy and Pillow. paretopress copies it into bundles of detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# what is left of the candidates: the least score, the overlap above which the worse of two goes, and how many
LEAST_SCORE, OVERLAP, MOST = 0.25, 0.7, 100
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178))
Objects = list[tuple[str, float, tuple[float, float, float, float]]]


def find_objects(
    boxes: ModuleType, manifest: Mapping[str, Any], predict: Callable[[Any], Sequence[Any]], path: Path, least_score: float = LEAST_SCORE
) -> Objects:
    """Return (class, score, box in pixels of the photo) of each object, the best first.

    Args:
        boxes: the module boxes.py of the bundle. predict: the bundle's own. path: of the photo.
    """
    detection, steps = manifest["detection"], manifest["preprocessing"]
    size = int(detection["size"][0])
    image = _opened(path)
    scale, left, top = boxes.letterboxed(image.width, image.height, size)
    resized = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    x = np.full((1, 3, size, size), float(steps.get("fill", 114)), np.float32)
    x[0, :, top : top + resized.height, left : left + resized.width] = np.asarray(resized, np.float32).transpose(2, 0, 1)
    outputs = predict(x * np.float32(steps.get("scale", 1 / 255)))
    places, scores = boxes.decoder_of(detection["decoder"], detection.get("anchors", ()))(outputs, (size, size))
    found, values, kinds = boxes.suppressed(places[0], scores[0], least_score, OVERLAP, MOST)
    corners = (found - np.array([left, top, left, top])) / scale
    corners = np.clip(corners, 0.0, np.array([image.width, image.height, image.width, image.height], float))
    names = manifest["classes"] or detection.get("classes", [])
    return [
        (names[kind] if kind < len(names) else f"class {kind}", float(value), (float(a), float(b), float(c), float(d)))
        for kind, value, (a, b, c, d) in zip(kinds.tolist(), values, corners, strict=True)
    ]


def described(objects: Objects) -> list[str]:
    """Return one line for each object."""
    return [f"{name} {score:.3f} at " + ", ".join(f"{side:.0f}" for side in box) for name, score, box in objects] or ["no object"]


def draw_objects(path: Path, objects: Objects, to: Path) -> None:
    """Write the photo with the boxes and names of the objects to a file."""
    from PIL import ImageDraw

    image = _opened(path)
    pen = ImageDraw.Draw(image)
    names = sorted({name for name, _, _ in objects})
    for name, score, box in objects:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=max(2, image.width // 200))
        text, place = f"{name} {score:.2f}", (box[0], max(box[1] - 12.0, 0.0))
        pen.rectangle(pen.textbbox(place, text), fill=colour)
        pen.text(place, text, fill=(255, 255, 255))
    image.save(to)


def _opened(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as missing:
        raise ValueError(f"a photo needs Pillow, but got: {missing}. pip install pillow") from missing
    with Image.open(path) as opened:
        return opened.convert("RGB")
