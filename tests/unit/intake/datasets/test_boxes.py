from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from paretopress.core.box_decoding import letterboxed
from paretopress.errors import DataError
from paretopress.intake.datasets.data_spec import load_data

# a photo of 64x32 with a box from (16, 8) to (48, 24), and one of 20x40 without
BOX = [16, 8, 32, 16]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(8):
        width, height = (64, 32) if number % 2 == 0 else (20, 40)
        Image.new("RGB", (width, height), (255, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        if number % 2 == 0:
            (tmp_path / "labels" / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    return tmp_path


def coco_file(folder: Path, numbers: range, name: str) -> Path:
    value = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in numbers],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [{"image_id": number, "category_id": 7, "bbox": BOX} for number in numbers if number % 2 == 0],
    }
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_letterbox_centres_a_photo_in_a_square() -> None:
    assert letterboxed(64, 32, 128) == (2.0, 0, 32)
    assert letterboxed(20, 40, 80) == (2.0, 20, 0)


def test_coco_reads_boxes_into_the_square(photos: Path) -> None:
    train, val, test = (coco_file(photos, numbers, f"{numbers.start}.json") for numbers in (range(4), range(4, 6), range(6, 8)))
    data = load_data(f"coco:images,{train.name},{val.name},{test.name}?size=128", base=photos)
    assert data.sizes() == {"train": 4, "val": 2, "test": 2}
    assert data.classes == ("cat", "dog")
    x, rows = data.val[0]
    assert x.shape == (3, 128, 128)
    assert rows.tolist() == [[32.0, 48.0, 96.0, 80.0, 2.0]]
    assert x[:, 0, 0].tolist() == pytest.approx([114 / 255] * 3)
    assert x[:, 64, 64].tolist() == [1.0, 0.0, 0.0]
    assert data.val[1][1].tolist() == [[0.0] * 5]


def test_coco_cuts_one_file_into_three(photos: Path) -> None:
    data = load_data(f"coco:images,{coco_file(photos, range(8), 'all.json').name}", base=photos, seed=1)
    assert data.sizes() == {"train": 6, "val": 1, "test": 1}
    paths = [photo.path for split in data.splits().values() for photo in split.photos]
    assert len(set(paths)) == 8


def test_yolo_reads_the_same_boxes(photos: Path) -> None:
    (photos / "val.txt").write_text("./images/0.png\nimages/1.png\n")
    (photos / "data.yaml").write_text("path: .\ntrain: images\nval: val.txt\nnames: {0: cat, 1: dog}\n")
    data = load_data("yolo:data.yaml?size=128", base=photos)
    assert data.sizes() == {"train": 8, "val": 1, "test": 1}
    rows = torch.cat([data.val[0][1], data.test[0][1]])
    assert sorted(rows.tolist()) == [[0.0] * 5, [32.0, 48.0, 96.0, 80.0, 2.0]]


def test_training_photos_are_mirrored_with_their_boxes(photos: Path) -> None:
    (photos / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    split = load_data("yolo:data.yaml?size=128", base=photos).train
    torch.manual_seed(0)
    found = {tuple(split[0][1][0].tolist()) for _ in range(20)}
    assert found == {(32.0, 48.0, 96.0, 80.0, 2.0)}  # in the middle: mirrored onto itself
    split.photos = (type(split.photos[0])(split.photos[0].path, ((0.0, 0.0, 16.0, 32.0, 1),)),)
    assert {tuple(split[0][1][0].tolist()) for _ in range(20)} == {(0.0, 32.0, 32.0, 96.0, 1.0), (96.0, 32.0, 128.0, 96.0, 1.0)}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param("coco:images", "one to three files", id="no annotations"),
        pytest.param("coco:images,none.json", "COCO annotations", id="no such file"),
        pytest.param("yolo:none.yaml", "YOLO data", id="no such description"),
    ],
)
def test_boxes_say_what_is_wrong(photos: Path, spec: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_data(spec, base=photos)


def test_boxes_name_a_photo_that_is_not_there(photos: Path) -> None:
    file = coco_file(photos, range(9), "all.json")
    with pytest.raises(DataError, match=r"8\.png"):
        load_data(f"coco:images,{file.name}", base=photos)
