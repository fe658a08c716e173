"""Encoders of transformers: heads, widths and blocks, as they are written there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paretopress.intake.trace import take_in

transformers = pytest.importorskip("transformers")

# of a block of a kind: its path, and the layers that lead a group, with the channels that go together
PARTS = {
    "bert": ("encoder.layer", {"attention.self.query": 8, "intermediate.dense": 1}, "attention.output.dense"),
    "distilbert": ("transformer.layer", {"attention.q_lin": 8, "ffn.lin1": 1}, "attention.out_lin"),
}


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=16
    )
    return transformers.BertModel(config)


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=16)
    return transformers.DistilBertModel(config)


class Classifier(nn.Module):
    """The mean of the hidden states that are not masked, and a Linear."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.fc = encoder, nn.Linear(32, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.fc((states * mask).sum(1) / mask.sum(1))


@pytest.fixture
def sentences() -> tuple[Tensor, Tensor]:
    """Tokens (4, 10) and a mask that leaves 10, 7, 4 and 1 of them."""
    tokens = torch.randint(0, 50, (4, 10), generator=torch.Generator().manual_seed(1))
    return tokens, (torch.arange(10) < torch.tensor([[10], [7], [4], [1]])).long()


@pytest.mark.parametrize("make", [bert, distilbert])
def test_take_in_offers_heads_widths_and_blocks_of_an_encoder(make: Callable[[], nn.Module], sentences: tuple[Tensor, Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(make()).eval()
    intake = take_in(classifier, sentences, ("input_ids", "attention_mask"))
    block, parts, out = PARTS[make.__name__]
    inside = {f"encoder.{block}.{index}.{part}": unit for index in range(2) for part, unit in parts.items()}
    widths = {f"encoder.{block}.0.{out}": 1}  # of what flows from layer to layer
    assert {group.name: group.unit for group in intake.graph.channel_groups} == inside | widths
    assert len(intake.graph.branches) == 4  # attention and the two Linear layers of each
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(*sentences), classifier(*sentences), rtol=1e-4, atol=1e-5)


class Placed(nn.Module):
    """Gives the encoder positions of its own, and says how."""

    def __init__(self, encoder: nn.Module, by: str) -> None:
        super().__init__()
        self.encoder, self.fc, self.by = encoder, nn.Linear(32, 3), by

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        arguments = (None, None, position_ids) if self.by == "position" else ()
        named = {"position_ids": position_ids} if self.by == "name" else {}
        return self.fc(self.encoder(input_ids, *arguments, **named).last_hidden_state[:, 0])


@pytest.mark.parametrize("make", [bert, distilbert])
@pytest.mark.parametrize("by", ["name", "position"])
def test_take_in_keeps_the_positions_that_an_encoder_is_given(make: Callable[[], nn.Module], by: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Placed(make(), by).eval()
    with torch.no_grad():
        model.encoder.embeddings.position_embeddings.weight.mul_(30)
    inputs = torch.randint(0, 50, (4, 6)), torch.arange(10, 16).repeat(4, 1)
    intake = take_in(model, inputs, ("input_ids", "position_ids"))
    assert len(intake.graph.branches) == 4
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
