from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.explicit.bert_encoder import Encoder, plain_encoder
from paretopress.errors import RewriteError
from paretopress.intake.rewrites import explicit
from paretopress.intake.trace import take_in

transformers = pytest.importorskip("transformers")


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


@pytest.fixture(params=[bert, distilbert])
def classifier(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(request.param()).eval()


@pytest.fixture
def sentences() -> tuple[Tensor, Tensor]:
    """Tokens (4, 10) and a mask that leaves 10, 7, 4 and 1 of them."""
    tokens = torch.randint(0, 50, (4, 10), generator=torch.Generator().manual_seed(1))
    return tokens, (torch.arange(10) < torch.tensor([[10], [7], [4], [1]])).long()


def test_explicit_encoder_computes_the_same(classifier: nn.Module, sentences: tuple[Tensor, Tensor]) -> None:
    with torch.inference_mode():
        wanted = classifier(*sentences)
        plain = explicit(classifier)
        assert isinstance(plain.encoder, Encoder)
        torch.testing.assert_close(plain(*sentences), wanted, rtol=1e-4, atol=1e-5)


def test_take_in_offers_heads_widths_and_blocks_of_an_encoder(classifier: nn.Module, sentences: tuple[Tensor, Tensor]) -> None:
    intake = take_in(classifier, sentences, ("input_ids", "attention_mask"))
    names = {group.name: group.unit for group in intake.graph.channel_groups}
    widths = {"encoder.layers.0.out": 1}  # of what flows from layer to layer
    assert names == widths | {f"encoder.layers.{index}.{part}": unit for index in range(2) for part, unit in (("query", 8), ("first", 1))}
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
    assert "encoder.layers.0.first" in {layer.name for layer in intake.graph.layers}
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["inputs_embeds", "encoder_hidden_states"])
@pytest.mark.parametrize("make", [bert, distilbert])
def test_plain_encoder_refuses_an_argument_that_it_does_not_carry_out(make: Callable[[], nn.Module], name: str) -> None:
    encoder = plain_encoder(make())
    with pytest.raises((RewriteError, TypeError), match=name):
        encoder(torch.zeros(2, 6, dtype=torch.long), **{name: torch.zeros(2, 6, 32)})
