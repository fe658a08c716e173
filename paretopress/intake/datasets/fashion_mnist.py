"""Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 grey 28x28 images of clothes, read from its four idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from paretopress.errors import DataError
from paretopress.intake.datasets.data import Data
from paretopress.intake.datasets.images import Augmentation, Images, Normalisation
from paretopress.system.object_spec import Spec

DEBIAN_ROOT = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_ROOT = Path("~/.cache/paretopress")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NORMALISATION = Normalisation(scale=1 / 255, mean=(0.286,), std=(0.353,))
AUGMENTATION = Augmentation(shift=2, flip=0.5)
VAL_SHARE = 12  # one in twelve: 5,000 of 60,000
SPLIT_SEED = 20_260
HINT = "Install Debian's dataset-fashion-mnist, or give the folder of the four idx files: fashion-mnist?root=PATH."


def fashion_mnist(spec: Spec, _seed: int) -> Data:
    """Return the data of `fashion-mnist` or `fashion-mnist?root=PATH`: x (1, 28, 28), 55,000 / 5,000 / 10,000 items.

    Looked for in `root`; without one, where Debian's package puts it, else it is downloaded by torchvision. The 5,000 are the same
    for every seed, so that a model which was trained on the 55,000 has never seen them. Training images are shifted and flipped.
    Raises: ConfigError: an unknown option. DataError: a file is missing or damaged, or the download failed.
    """
    spec.allow("root")
    root = _root(spec.path("root"))
    pixels, labels = _read_pair(root, "train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    val, train = order[: len(labels) // VAL_SHARE], order[len(labels) // VAL_SHARE :]
    test_pixels, test_labels = _read_pair(root, "t10k")
    return Data(
        Images(pixels[train], labels[train], NORMALISATION, classes=CLASSES, augmentation=AUGMENTATION),
        Images(pixels[val], labels[val], NORMALISATION, classes=CLASSES),
        Images(test_pixels, test_labels, NORMALISATION, classes=CLASSES),
        CLASSES,
        {"color": "grey", "resize": pixels.shape[-1], "interpolation": "bilinear", **NORMALISATION.to_json()},
    )


def _root(given: Path | None) -> Path:
    if given is not None:
        return next((folder for folder in (given, given / "FashionMNIST" / "raw") if _present(folder)), given)
    if _present(DEBIAN_ROOT):
        return DEBIAN_ROOT
    import torchvision

    target = DOWNLOAD_ROOT.expanduser()
    try:
        torchvision.datasets.FashionMNIST(target, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"Fashion-MNIST is not on this machine, and its download failed: {error}", HINT) from error
    return target / "FashionMNIST" / "raw"


def _present(folder: Path) -> bool:
    return any((folder / f"train-images-idx3-ubyte{ending}").is_file() for ending in (".gz", ""))


def _read_pair(root: Path, part: str) -> tuple[Tensor, Tensor]:
    pixels = _read_idx(root / f"{part}-images-idx3-ubyte.gz", dimensions=3).unsqueeze(1)
    labels = _read_idx(root / f"{part}-labels-idx1-ubyte.gz", dimensions=1).long()
    if len(pixels) != len(labels):
        raise DataError(f"images and labels must be as many, but got images={len(pixels)}, labels={len(labels)} in {part} of {root}")
    return pixels, labels


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the uint8 tensor of an idx file, packed or not.

    Source: the idx format of LeCun's MNIST page: bytes 0, 0, type 8 (unsigned), dimensions; then each length in 4 bytes, big-endian.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.is_file() else path.with_suffix("").read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"a file of Fashion-MNIST is missing: {path}", HINT) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"a file of Fashion-MNIST must be readable gzip, but got {error} at {path}", HINT) from error
    head = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, head, 4)]
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != head + math.prod(shape):
        raise DataError(
            f"an idx file must hold {dimensions}-dimensional bytes, but got {len(content)} bytes with another head at {path}", HINT
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[head:].view(shape)
