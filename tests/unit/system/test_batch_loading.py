from __future__ import annotations

import torch

from paretopress.system.batch_loading import load_items


class Dicts:
    """Items as Hugging Face's datasets give them: lists of numbers, a text, and a label in one dict."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"input_ids": [index, 1, 2], "attention_mask": [1, 1, 0], "sentence": "a text", "label": index % 2}


def test_load_items_parts_the_label_when_an_item_is_one_dict() -> None:
    (x, label) = load_items(Dicts(), [3])[0]
    assert label == 1
    assert {name: part.tolist() for name, part in x.items()} == {"input_ids": [3, 1, 2], "attention_mask": [1, 1, 0]}


def test_load_items_gives_a_tensor_when_a_dict_holds_one_input() -> None:
    split = [{"pixel_values": torch.ones(3, 2, 2), "labels": torch.tensor(1)}, {"pixel_values": torch.ones(3, 2, 2)}]
    (x, label), unlabelled = load_items(split, [0, 1])
    assert x.shape == (3, 2, 2)
    assert int(label) == 1
    assert list(unlabelled) == ["pixel_values"]
