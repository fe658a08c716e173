from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretopress.errors import DataError, ModelError
from paretopress.intake.checks import check_data, check_model, has_class_axis
from paretopress.intake.datasets.data import Data, Split
from paretopress.tasks.regression import Regression
from paretopress.tasks.segmentation import Segmentation

IMAGE = torch.zeros(1, 4, 4)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()


def items(count: int = 6, **changed: object) -> Split:
    """Items (IMAGE, i % 3); `at5=...` replaces item 5."""
    made: list[object] = [(IMAGE, i % 3) for i in range(count)]
    for key, item in changed.items():
        made[int(key.removeprefix("at"))] = item
    return cast(Split, made)


class Told:
    """IMAGE with labels that the dataset tells; item labels are all 0, and few items may be read."""

    def __init__(self, targets: list[int]) -> None:
        self.targets, self.read = targets, set[int]()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.add(index)
        assert len(self.read) <= 16 + 64
        return IMAGE, 0


def test_check_model_returns_when_all_is_well() -> None:
    check_model(network())


@pytest.mark.parametrize("model", [None, {"weight": IMAGE}, nn.ReLU(), nn.Module])
def test_check_model_raises_when_it_is_no_module_with_parameters(model: object) -> None:
    with pytest.raises(ModelError, match="must"):
        check_model(model)


@pytest.mark.parametrize("name", ["0.weight", "1.bias", "1.running_var", "3.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_model_names_the_tensor_when_it_is_not_finite(name: str, value: float) -> None:
    model = network()
    model.state_dict()[name].flatten()[-1] = value
    with pytest.raises(ModelError, match=f"got 1 NaN or inf of .* at {name}"):
        check_model(model)


def test_check_model_raises_when_a_layer_was_never_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older versions of torch warn of lazy layers
        model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ModelError, match=r"uninitialised one at 1\.weight"):
        check_model(model)
    with pytest.raises(ModelError, match="uninitialised one at weight"):
        check_model(nn.Linear(2, 2, device="meta"))


def test_check_data_returns_when_all_is_well() -> None:
    labels = cast(Split, [(IMAGE, np.int64(2)), (IMAGE, torch.tensor(1))])
    check_data(Data(items(), labels, items()), network())


def test_check_data_spares_the_global_generator() -> None:
    class Noisy:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.rand(1, 4, 4), 0

    model = network()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    check_data(Data(cast(Split, Noisy()), items(), items()), model)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.full((1, 4, 4), float("nan")), 0), "finite"),
        ((torch.full((1, 4, 4), float("inf")), 0), "finite"),
        ((torch.zeros(1, 4, 5), 0), r"\(1, 4, 5\)"),
        ((IMAGE.double(), 0), "float64"),
        ((IMAGE.to(torch.uint8), 0), "uint8"),
        ((IMAGE[0], 0), r"shape=\(4, 4\)"),
        ((IMAGE.numpy(), 0), "ndarray"),
        ((IMAGE, 3), "label=3"),
        ((IMAGE, -1), "label=-1"),
        ((IMAGE, 1.0), "1.0"),
        ((IMAGE, "cat"), "'cat'"),
        ((IMAGE, True), "True"),
        ((IMAGE, torch.tensor([0, 1, 0])), "tensor"),
        (IMAGE, r"\(x, label\), but got Tensor"),
        ({"x": IMAGE, "kind": 0}, "dict"),
    ],
)
def test_check_data_names_split_and_index_when_an_item_is_bad(split: str, item: object, message: str) -> None:
    splits = {name: items() for name in ("train", "val", "test")} | {split: items(at5=item)}
    with pytest.raises(DataError, match=rf"(?s){message}.*at {split}\[5\]"):
        check_data(Data(splits["train"], splits["val"], splits["test"]), network())


def test_check_data_names_the_split_when_shapes_differ_between_splits() -> None:
    other = cast(Split, [(torch.zeros(3, 4, 4), 0)])
    with pytest.raises(DataError, match=r"the first, \(1, 4, 4\), but got shape=\(3, 4, 4\) at test\[0\]"):
        check_data(Data(items(), items(), other), network())


def test_check_data_checks_every_label_when_the_dataset_tells_them() -> None:
    told = cast(Split, Told([0] * 1000 + [7]))
    with pytest.raises(DataError, match=r"label=7 at val\[1000\]") as caught:
        check_data(Data(items(), told, items()), network())
    assert "1 of 1001" in caught.value.hint
    check_data(Data(items(), cast(Split, Told([2] * 1000)), items()), network())


def test_check_data_reads_512_items_when_labels_are_not_told() -> None:
    with pytest.raises(DataError, match=r"label=9 at train\[511\]"):
        check_data(Data(items(600, at511=(IMAGE, 9)), items(), items()), network())
    check_data(Data(items(600, at512=(IMAGE, 9)), items(), items()), network())


def test_check_data_quotes_the_error_when_an_item_cannot_be_read() -> None:
    class Broken(list[object]):
        def __getitems__(self, indices: list[int]) -> list[object]:
            raise OSError("truncated file\nat byte 3")

    with pytest.raises(DataError, match=r"OSError: truncated file at val\[0:6\]"):
        check_data(Data(items(), cast(Split, Broken([0] * 6)), items()), network())


def test_check_data_says_shape_and_error_when_the_model_refuses_the_data() -> None:
    with pytest.raises(DataError, match=r"x of shape \(2, 1, 4, 4\), but it raised RuntimeError: .*channels") as caught:
        check_data(Data(items(), items(), items()), nn.Conv2d(3, 2, 3))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 3, 1, 1), r"fit the task top-1: the first output must be logits \(N, classes\), but got shape \(2, 3, 1, 1\)"),
        (torch.zeros(3), "tensors with one row an item, but got Tensor for 2 items"),
        (torch.zeros(1, 3), "tensors with one row an item"),
        ([{"boxes": torch.zeros(2, 4)}], "but got list for 2 items. Lists of boxes or of dicts are not supported yet"),
    ],
)
def test_check_data_says_why_when_the_output_is_not_logits(output: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_data(Data(items(), items(), items()), lambda _: output)


@pytest.mark.parametrize("wrapped", [lambda x: [x], lambda x: (x, x), lambda x: {"logits": x, "states": x}])
def test_check_data_takes_logits_in_a_list_tuple_or_dict(wrapped: Callable[[Tensor], object]) -> None:
    model = network()
    check_data(Data(items(), items(), items()), lambda x: wrapped(model(x)))


def test_check_data_takes_tokens_and_several_inputs() -> None:
    pairs = cast(Split, [({"tokens": torch.zeros(4, dtype=torch.int64), "mask": torch.ones(4)}, 1)] * 4)
    check_data(Data(pairs, pairs, pairs), lambda tokens, mask: torch.zeros(len(tokens), 3))
    uneven = cast(Split, [((torch.zeros(4), torch.zeros(2)), 1), ((torch.zeros(4),), 1)])
    with pytest.raises(DataError, match=r"must have 2 inputs as the first, but got 1 at train\[1\]"):
        check_data(Data(uneven, uneven, uneven), lambda *_: torch.zeros(2, 3))


def test_check_data_raises_when_the_output_is_nan() -> None:
    with pytest.raises(ModelError, match="output must be finite"):
        check_data(Data(items(), items(), items()), lambda x: torch.full((len(x), 3), float("nan")))


@pytest.mark.parametrize(
    ("names", "message"), [(("cat", "dog"), "3, but got 2 names: cat, dog"), (("a", "b", "c", "d"), "got 4 names: a, b, c, ...")]
)
def test_check_data_raises_when_class_names_do_not_fit_the_output(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_data(Data(items(), items(), items(), names), network())
    check_data(Data(items(), items(), items(), ("cat", "dog", "owl")), network())


def test_check_data_counts_class_names_along_channels_for_pixels() -> None:
    pixels = cast(Split, [(IMAGE, torch.zeros(4, 4, dtype=torch.int64)) for _ in range(4)])
    model = nn.Conv2d(1, 3, 1)
    check_data(Data(pixels, pixels, pixels, ("road", "car", "sky"), task=Segmentation()), model)
    with pytest.raises(DataError, match="4 names"):
        check_data(Data(pixels, pixels, pixels, ("road", "car", "sky", "tree"), task=Segmentation()), model)


def test_has_class_axis_is_false_when_outputs_are_no_classes() -> None:
    assert not has_class_axis(Regression("R2"))
    assert has_class_axis(Segmentation())
