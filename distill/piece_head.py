"""The masked-language head: from a hidden state to logits over the vocabulary.

All families compute norm(act(dense(hidden))) E' + b, and differ in names alone. The table E is
nearly always the word table itself; it is then given at every call and not held twice, so that a
frozen table stays frozen and a file holds it once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN


@dataclass(frozen=True)
class _Shape:
    """What differs between the heads of families besides names."""

    activation: str
    epsilon: float
    dense_bias: bool = True
    norm_bias: bool = True


class PieceHead(nn.Module):
    """Hidden state (B, T, H) and word table (V, H) -> logits (B, T, V)."""

    def __init__(self, config: PretrainedConfig, *, own_table: bool = False) -> None:
        super().__init__()
        shape = _shape(config)
        width, vocabulary = config.hidden_size, config.vocab_size
        self.dense = nn.Linear(width, width, bias=shape.dense_bias)
        self.activation = ACT2FN[shape.activation]
        self.norm = nn.LayerNorm(width, eps=shape.epsilon, bias=shape.norm_bias)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.table = nn.Parameter(torch.empty(vocabulary, width)) if own_table else None

    def forward(self, hidden: Tensor, word_table: Tensor) -> Tensor:
        """Logits over the vocabulary, (B, T, V)."""
        table = word_table if self.table is None else self.table
        return F.linear(self.norm(self.activation(self.dense(hidden))), table, self.bias)


def head_of(model: PreTrainedModel) -> PieceHead:
    """The head of a model for masked language, its word table left to the encoder if it is tied."""
    dense, norm, decoder = HEADS[model.config.model_type](model)
    tied = decoder.weight is model.get_input_embeddings().weight
    head = PieceHead(model.config, own_table=not tied)
    head.dense.load_state_dict(dense.state_dict())
    head.norm.load_state_dict(norm.state_dict())
    with torch.no_grad():
        if decoder.bias is not None:
            head.bias.copy_(decoder.bias)
        if head.table is not None:
            head.table.copy_(decoder.weight)
    return head


def stored_head(config: PretrainedConfig, tensors: Mapping[str, Tensor]) -> PieceHead:
    """The head whose state was saved as `tensors`."""
    head = PieceHead(config, own_table="table" in tensors)
    head.load_state_dict(tensors)
    return head


def _shape(config: PretrainedConfig) -> _Shape:
    if config.model_type == "distilbert":
        return _Shape(config.activation, 1e-12)
    if config.model_type == "modernbert":
        return _Shape(
            config.classifier_activation, config.norm_eps, config.classifier_bias, config.norm_bias
        )
    # RoBERTa's head is gelu whatever its layers are
    activation = "gelu" if "roberta" in config.model_type else config.hidden_act
    return _Shape(activation, config.layer_norm_eps)


_Found = tuple[nn.Linear, nn.LayerNorm, nn.Linear]


def _bert(model: PreTrainedModel) -> _Found:
    head = model.cls.predictions
    return head.transform.dense, head.transform.LayerNorm, head.decoder


def _roberta(model: PreTrainedModel) -> _Found:
    return model.lm_head.dense, model.lm_head.layer_norm, model.lm_head.decoder


def _distilbert(model: PreTrainedModel) -> _Found:
    return model.vocab_transform, model.vocab_layer_norm, model.vocab_projector


def _modernbert(model: PreTrainedModel) -> _Found:
    return model.head.dense, model.head.norm, model.decoder


HEADS: Mapping[str, Callable[[PreTrainedModel], _Found]] = {
    "bert": _bert,
    "xlm-roberta": _roberta,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}
"""Family -> the parts of its head in transformers' model for masked language."""
