"""Transformer encoders of the BERT family as plain layers that torch.fx can trace and a plan can change one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paretopress.compress.explicit.attention import no_other_arguments, split_heads

# what is added to the score of a position that is masked; its weight is then 0 in float32
_MASKED = -1e4


class Encoded(NamedTuple):
    """What an encoder puts out, under the names that transformers uses."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class EncoderLayer(nn.Module):
    """Attention and two Linear layers, each behind a sum and a layer norm (Devlin et al. 2019, "BERT", section 3)."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    norm_attention: nn.Module
    first: nn.Module
    activation: nn.Module
    second: nn.Module
    norm: nn.Module

    def __init__(self, parts: dict[str, nn.Module], head_width: int) -> None:
        """Take query, key, value, out, norm_attention, first, activation, second and norm of a trained layer."""
        super().__init__()
        self.head_width = head_width
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (N, positions, width); `mask` is added to the scores."""
        q, k, v = (split_heads(layer(x), self.head_width) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm_attention(x + self.out(attended.transpose(1, 2).flatten(2)))
        result: Tensor = self.norm(x + self.second(self.activation(self.first(x))))
        return result


class Encoder(nn.Module):
    """BertModel: embeddings, layers and, where there is one, a pooler; takes (N, positions) tokens and a mask of ones and zeros.

    `forward` has the arguments of BertModel in their order; one that it does not carry out must be None, or False where it is a switch.
    """

    def __init__(
        self,
        words: nn.Embedding,
        positions: nn.Embedding,
        kinds: nn.Embedding | None,
        norm: nn.Module,
        layers: list[EncoderLayer],
        pooler: nn.Module | None,
    ) -> None:
        super().__init__()
        self.words, self.positions, self.kinds, self.norm = words, positions, kinds, norm
        self.layers, self.pooler, self.kind = nn.ModuleList(layers), pooler, words.weight.dtype

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: object = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Encoded:
        """Return the hidden states of the last layer (N, positions, width) and what the pooler makes of the first position.

        Without `position_ids` (N, positions) they are 0, 1, 2, ...
        Raises: RewriteError: another argument is given.
        """
        no_other_arguments(
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            cache=cache,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        return self.encoded(input_ids, attention_mask, token_type_ids, position_ids)

    def encoded(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None, position_ids: Tensor | None
    ) -> Encoded:
        """Return what `forward` does."""
        places = torch.cumsum(torch.ones_like(input_ids), 1) - 1 if position_ids is None else position_ids
        x = self.words(input_ids) + self.positions(places)
        if self.kinds is not None:
            x = x + (self.kinds.weight[0] if token_type_ids is None else self.kinds(token_type_ids))
        x = self.norm(x)
        mask = None if attention_mask is None else (1.0 - attention_mask.to(self.kind)).unsqueeze(1).unsqueeze(1) * _MASKED
        for layer in self.layers:
            x = layer(x, mask)
        return Encoded(x, None if self.pooler is None else self.pooler(x))


class DistilEncoder(Encoder):
    """DistilBertModel, with its arguments in their order."""

    def forward(  # type: ignore[override]  # it stands for another model, whose third argument is another
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Encoded:
        """Return the hidden states of the last layer (N, positions, width); see `Encoder.forward`."""
        no_other_arguments(
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        return self.encoded(input_ids, attention_mask, None, position_ids)


def is_known_encoder(model: nn.Module) -> bool:
    """Return whether a module is a BertModel with absolute positions that is no decoder, or a DistilBertModel, of transformers."""
    kind = type(model)
    if not kind.__module__.startswith("transformers."):
        return False
    source: Any = model
    return kind.__name__ == "DistilBertModel" or (
        kind.__name__ == "BertModel" and not source.config.is_decoder and _absolute(source.config)
    )


def plain_encoder(model: nn.Module) -> Encoder:
    """Return a module that `is_known_encoder` in plain layers, which are its own.

    Raises: AttributeError: another version of transformers names its parts otherwise.
    """
    return _from_distilbert(model) if type(model).__name__ == "DistilBertModel" else _from_bert(model)


def _absolute(config: Any) -> bool:
    return str(getattr(config, "position_embedding_type", "absolute")) == "absolute"


def _from_bert(model: Any) -> Encoder:
    embeddings, width = model.embeddings, model.config.hidden_size // model.config.num_attention_heads
    layers = [
        EncoderLayer(
            {
                "query": layer.attention.self.query,
                "key": layer.attention.self.key,
                "value": layer.attention.self.value,
                "out": layer.attention.output.dense,
                "norm_attention": layer.attention.output.LayerNorm,
                "first": layer.intermediate.dense,
                "activation": _as_module(layer.intermediate.intermediate_act_fn),
                "second": layer.output.dense,
                "norm": layer.output.LayerNorm,
            },
            width,
        )
        for layer in model.encoder.layer
    ]
    return Encoder(
        embeddings.word_embeddings,
        embeddings.position_embeddings,
        embeddings.token_type_embeddings,
        embeddings.LayerNorm,
        layers,
        model.pooler,
    )


def _from_distilbert(model: Any) -> Encoder:
    embeddings, width = model.embeddings, model.config.dim // model.config.n_heads
    layers = [
        EncoderLayer(
            {
                "query": layer.attention.q_lin,
                "key": layer.attention.k_lin,
                "value": layer.attention.v_lin,
                "out": layer.attention.out_lin,
                "norm_attention": layer.sa_layer_norm,
                "first": layer.ffn.lin1,
                "activation": _as_module(layer.ffn.activation),
                "second": layer.ffn.lin2,
                "norm": layer.output_layer_norm,
            },
            width,
        )
        for layer in model.transformer.layer
    ]
    return DistilEncoder(embeddings.word_embeddings, embeddings.position_embeddings, None, embeddings.LayerNorm, layers, None)


class _Activation(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)  # type: ignore[no-any-return]  # any of transformers' activations


def _as_module(activation: Any) -> nn.Module:
    if type(activation).__name__ == "GELUActivation":
        return nn.GELU()  # exact, as transformers' own
    return activation if isinstance(activation, nn.Module) else _Activation(activation)
