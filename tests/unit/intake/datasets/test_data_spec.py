from __future__ import annotations

import gzip
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import Subset

from paretopress.errors import ConfigError, DataError
from paretopress.intake.datasets import fashion_mnist
from paretopress.intake.datasets.data import Split, batch, labels_of, split_size, stack
from paretopress.intake.datasets.data_spec import load_data
from paretopress.system.batch_loading import load_items


def labels(split: Split) -> list[int]:
    told = labels_of(split)
    assert told is not None
    return told.tolist()


@pytest.mark.parametrize("spec", ["digitz", "file.py", "", "http://x", "digits.npz"])
def test_load_data_lists_the_forms_when_the_spec_is_unknown(spec: str) -> None:
    with pytest.raises(ConfigError, match="known form") as caught:
        load_data(spec)
    for form in ("FILE.py:FACTORY", "digits", "fashion-mnist", "folder:PATH", "torchvision:"):
        assert form in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "valid"),
    [("digits?x=1", "size"), ("fashion-mnist?x=1", "root"), ("folder:p?x=1", "size"), ("torchvision:MNIST?x=1", "root, download")],
)
def test_load_data_lists_the_keys_when_an_option_is_unknown(spec: str, valid: str) -> None:
    with pytest.raises(ConfigError, match="no option 'x'") as caught:
        load_data(spec)
    assert f"Valid keys: {valid}." in caught.value.hint


# --- file.py:factory


def test_load_data_cuts_test_when_the_factory_returns_two_splits(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef data():\n    items = [(torch.zeros(1, 2, 2), i) for i in range(8)]\n    return items[:4], items[4:]\n"
    )
    first, other = (load_data("mine.py:data", base=tmp_path, seed=seed) for seed in (0, 1))
    assert first.sizes() == {"train": 4, "val": 2, "test": 2}
    assert [stack(data.test, 2)[1].tolist() for data in (first, other)] != [stack(first.test, 2)[1].tolist()] * 2


def test_load_data_quotes_the_error_when_the_factory_raises(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def data():\n    raise FileNotFoundError('no photos here')\n")
    with pytest.raises(DataError, match="FileNotFoundError: no photos here"):
        load_data("mine.py:data", base=tmp_path)


# --- digits


@pytest.fixture(scope="module")
def sklearn_datasets() -> ModuleType:
    """Imported here: it takes seconds, which would count as those of the first test."""
    datasets: ModuleType = pytest.importorskip("sklearn.datasets")
    return datasets


@pytest.mark.usefixtures("sklearn_datasets")
def test_load_data_splits_digits_by_class_when_seeded() -> None:
    first, again, other = (load_data("digits", seed=seed) for seed in (0, 0, 1))
    sizes = first.sizes()
    assert sum(sizes.values()) == 1797
    assert [round(size / 1797, 2) for size in sizes.values()] == [0.6, 0.2, 0.2]
    assert min(torch.bincount(torch.tensor(labels(first.test)))) >= 34
    assert labels(first.test) == labels(again.test)
    assert labels(first.test) != labels(other.test)


def test_load_data_keeps_digits_apart_when_split(sklearn_datasets: ModuleType) -> None:
    data = load_data("digits")
    x = torch.cat([stack(data.val, 999)[0], stack(data.test, 999)[0]])
    raw = torch.tensor(sklearn_datasets.load_digits().images, dtype=torch.float32)
    expected = (raw / 16 - 0.305) / 0.376
    distance = torch.cdist(x.flatten(1), expected.flatten(1))
    assert distance.min(1).values.max() < 0.01
    assert len(set(distance.argmin(1).tolist())) == len(x)


@pytest.mark.usefixtures("sklearn_datasets")
def test_load_data_resizes_digits_when_asked() -> None:
    data = load_data("digits?size=16")
    x, _ = stack(data.val, 400)
    assert x.shape[1:] == (1, 16, 16)
    assert x.dtype == torch.float32
    assert abs(float(x.mean())) < 0.1
    assert data.classes == tuple("0123456789")
    assert data.preprocessing["resize"] == 16


@pytest.mark.usefixtures("sklearn_datasets")
def test_load_data_augments_digits_when_they_are_for_training() -> None:
    data = load_data("digits?size=16")
    twice = {name: [batch(split, range(20))[0] for _ in range(2)] for name, split in data.splits().items()}
    assert {name: torch.equal(*pair) for name, pair in twice.items()} == {"train": False, "val": True, "test": True}


def test_load_data_names_the_extra_when_scikit_learn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="needs scikit-learn") as caught:
        load_data("digits")
    assert "paretopress[demo]" in caught.value.hint


# --- fashion-mnist


def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    head = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    content = head + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """24 train and 3 test images; every pixel of image i is i, and its label i % 10."""
    for part, count in (("train", 24), ("t10k", 3)):
        numbers = np.arange(count, dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.broadcast_to(numbers[:, None, None], (count, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", numbers % 10)
    return tmp_path


def test_load_data_cuts_a_twelfth_of_fashion_mnist_when_read_from_root(fashion: Path) -> None:
    data = load_data(f"fashion-mnist?root={fashion}")
    assert data.sizes() == {"train": 22, "val": 2, "test": 3}
    assert sorted(labels(data.train) + labels(data.val)) == sorted(i % 10 for i in range(24))
    assert len(data.classes) == 10
    x, y = stack(data.test, 3)
    assert y.tolist() == [0, 1, 2]
    assert torch.allclose(x[2], torch.full((1, 28, 28), (2 / 255 - 0.286) / 0.353))


def test_load_data_cuts_the_same_val_when_the_seed_differs(fashion: Path) -> None:
    first, other = (stack(load_data("fashion-mnist?root=.", base=fashion, seed=seed).val, 2)[0] for seed in (0, 1))
    assert torch.equal(first, other)


def test_load_data_reads_fashion_mnist_as_torchvision_unpacks_it(fashion: Path) -> None:
    raw = fashion / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in fashion.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert load_data(f"fashion-mnist?root={fashion}").sizes()["test"] == 3


# labels of another number, cut off in the middle; without the time of packing, so that every process has the same parameters
WRONG_NUMBER, CUT_OFF = gzip.compress(b"\0\0\x08\x01" + b"\0\0\0\x05abc", mtime=0), gzip.compress(bytes(100), mtime=0)[:-20]


@pytest.mark.parametrize("content", [b"no gzip", WRONG_NUMBER, CUT_OFF, b""])
def test_load_data_names_the_file_when_one_of_fashion_mnist_is_damaged(fashion: Path, content: bytes) -> None:
    (fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match="t10k-labels"):
        load_data(f"fashion-mnist?root={fashion}")


def test_load_data_raises_when_fashion_mnist_labels_differ_in_number(fashion: Path) -> None:
    write_idx(fashion / "t10k-labels-idx1-ubyte.gz", np.zeros(4, dtype=np.uint8))
    with pytest.raises(DataError, match="images=3, labels=4"):
        load_data(f"fashion-mnist?root={fashion}")


def test_load_data_raises_when_root_holds_no_fashion_mnist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing") as caught:
        load_data(f"fashion-mnist?root={tmp_path}")
    assert "dataset-fashion-mnist" in caught.value.hint


def test_load_data_prefers_the_debian_folder_when_it_is_there(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_ROOT", fashion)
    assert load_data("fashion-mnist").sizes()["test"] == 3


def test_load_data_quotes_the_error_when_a_download_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_ROOT", tmp_path)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(DataError, match="download failed: no network"):
        load_data("fashion-mnist")


# --- folder


def write_photos(root: Path, classes: tuple[str, ...] = ("ant", "bee"), count: int = 2) -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((30, 40, 3), 255, dtype=np.uint8)
            pixels[..., 0] = np.arange(40)  # a gradient, so that a random crop shows
            pixels[..., 1] = 20 * number + i
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def sources(split: Split) -> list[int]:
    """Return the index of each item in the dataset that `split` was cut from."""
    if not isinstance(split, Subset):
        return list(range(split_size(split)))
    inner = sources(split.dataset)
    return [inner[index] for index in split.indices]


def test_load_data_reads_the_folders_when_all_three_are_there(tmp_path: Path) -> None:
    for count, name in enumerate(("train", "val", "test"), start=1):
        write_photos(tmp_path / name, count=count)
    data = load_data(f"folder:{tmp_path}?size=16")
    assert data.sizes() == {"train": 2, "val": 4, "test": 6}
    assert data.classes == ("ant", "bee")
    assert all(x.shape == (3, 16, 16) for split in data.splits().values() for x, _ in load_items(split, [0, 1]))
    blue = stack(data.val, 4)[0][:, 2]
    assert torch.allclose(blue, torch.tensor((1 - 0.406) / 0.225))


def test_load_data_cuts_test_off_val_when_the_folder_has_none(tmp_path: Path) -> None:
    write_photos(tmp_path / "train")
    write_photos(tmp_path / "valid", count=5)
    data = load_data("folder:.?size=16", base=tmp_path)
    assert data.sizes() == {"train": 4, "val": 5, "test": 5}
    assert sorted(labels(data.val) + labels(data.test)) == [0] * 5 + [1] * 5


def test_load_data_cuts_val_off_train_when_a_folder_has_only_test(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", count=10)
    write_photos(tmp_path / "test")
    data = load_data(f"folder:{tmp_path}?size=16")
    assert data.sizes() == {"train": 18, "val": 2, "test": 4}
    assert torch.equal(stack(data.val, 2)[0], stack(data.val, 2)[0])
    assert sorted(sources(data.train) + sources(data.val)) == list(range(20))


def test_load_data_splits_by_class_when_the_folder_is_flat(tmp_path: Path) -> None:
    write_photos(tmp_path, count=20)
    data = load_data(f"folder:{tmp_path}?size=16")
    assert data.sizes() == {"train": 28, "val": 6, "test": 6}
    assert [sum(labels(split)) for split in data.splits().values()] == [14, 3, 3]


def test_load_data_mixes_the_classes_when_a_folder_is_sorted(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_photos(tmp_path / name, count=12)
    data = load_data(f"folder:{tmp_path}?size=16")
    assert set(labels(data.val)[:10]) == set(labels(data.test)[:10]) == {0, 1}


def test_load_data_raises_when_folders_hold_different_classes(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", ("ant", "bee"))
    write_photos(tmp_path / "val", ("ant", "cow"))
    with pytest.raises(DataError, match="bee, cow"):
        load_data(f"folder:{tmp_path}")


def test_load_data_raises_when_train_has_no_other_split_beside_it(tmp_path: Path) -> None:
    write_photos(tmp_path / "train")
    write_photos(tmp_path / "eval")
    with pytest.raises(DataError, match="val or test beside it"):
        load_data(f"folder:{tmp_path}")


def test_load_data_raises_when_the_folder_is_missing_or_has_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must exist"):
        load_data("folder:nowhere", base=tmp_path)
    with pytest.raises(DataError, match="one folder of images"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "ant").mkdir()
    with pytest.raises(DataError, match="one folder of images"):
        load_data(f"folder:{tmp_path}")


# --- torchvision


def write_cifar(root: Path) -> None:
    """CIFAR-10's layout with 20 training images, all grey 128 (its loader checks md5 sums, which the tests switch off)."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, count in [(f"data_batch_{i}", 4) for i in range(1, 6)] + [("test_batch", 3)]:
        content = {"data": np.full((count, 3072), 128, dtype=np.uint8), "labels": [i % 10 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))


def test_load_data_cuts_a_tenth_of_a_torchvision_train_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    data = load_data("torchvision:CIFAR10?root=.", base=tmp_path)
    assert data.sizes() == {"train": 18, "val": 2, "test": 3}
    assert data.classes[:2] == ("c0", "c1")
    x, _ = stack(data.test, 3)
    assert torch.allclose(x, torch.full((3, 3, 32, 32), (128 / 255 - 0.5) / 0.25), atol=1e-6)


def test_load_data_uses_the_splits_when_a_torchvision_dataset_names_them(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        write_photos(tmp_path / "country211" / part, count=count)
    data = load_data(f"torchvision:Country211?root={tmp_path}")
    assert data.sizes() == {"train": 6, "val": 4, "test": 2}


@pytest.mark.parametrize("name", ["CIFAR10", "Country211"])  # one with train=, one with split=
def test_load_data_explains_when_torchvision_files_are_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} could not be read") as caught:
        load_data(f"torchvision:{name}", base=tmp_path)
    assert "download=1" in caught.value.hint


@pytest.mark.parametrize("name", ["CIFAR11", "ImageFolder", "VisionDataset"])
def test_load_data_raises_when_torchvision_has_no_such_splits(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no dataset '{name}'"):
        load_data(f"torchvision:{name}")
