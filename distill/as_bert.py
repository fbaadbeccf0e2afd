"""An encoder of any family as BERT would say it: its settings and its weights by BERT's names.

Students are of BERT's shape whatever they start from. XLM-RoBERTa and RoBERTa are BERT but for
rows of the position table that no token reaches; DistilBERT is BERT without segments; of a
ModernBERT, whose layers are others, only the word table and its norm can be copied, and a body of
its width and heads is drawn anew, with feed-forwards four times as wide.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertConfig

from distill.anatomy import Encoder, anatomy
from distill.layered import FAMILY as LAYERED

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True)
class Origin:
    """What a student can be copied from."""

    family: str
    config: BertConfig
    weights: Mapping[str, Tensor]
    """BERT's name -> tensor; only what can be copied."""
    layers: int
    """How many layers can be copied."""
    has_positions: bool = True


def as_bert(encoder: Encoder) -> Origin:
    """Read settings and weights off an encoder.

    Raises:
        EncoderError: its family is not known.
    """
    family = anatomy(encoder).family
    return _READERS[family](encoder)


def _same(encoder: Encoder) -> Origin:
    config = copy.deepcopy(encoder.config)
    weights = encoder.state_dict()
    return Origin(config.model_type, config, weights, config.num_hidden_layers)


def _roberta(encoder: Encoder) -> Origin:
    parts = anatomy(encoder)
    weights = dict(encoder.state_dict())
    weights[POSITIONS] = weights[POSITIONS][-parts.max_tokens :]
    given = encoder.config
    config = _bert_config(
        encoder,
        intermediate_size=given.intermediate_size,
        hidden_act=given.hidden_act,
        type_vocab_size=given.type_vocab_size,
        layer_norm_eps=given.layer_norm_eps,
    )
    return Origin(parts.family, config, weights, parts.depth)


def _distilbert(encoder: Encoder) -> Origin:
    weights = {_bert_name(name): tensor for name, tensor in encoder.state_dict().items()}
    # two rows, because its tokenizers tell the second text of a pair from the first
    weights[SEGMENTS] = torch.zeros_like(weights[WORDS][:2])
    given = encoder.config
    config = _bert_config(
        encoder,
        intermediate_size=given.hidden_dim,
        hidden_act=given.activation,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )
    return Origin(given.model_type, config, weights, given.n_layers)


def _bert_name(name: str) -> str:
    for own, berts in _DISTILBERT_NAMES.items():
        name = name.replace(own, berts)
    return name


_DISTILBERT_NAMES = {
    "transformer.layer": "encoder.layer",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def _modernbert(encoder: Encoder) -> Origin:
    weights = encoder.state_dict()
    config = _bert_config(
        encoder,
        intermediate_size=4 * encoder.config.hidden_size,
        hidden_act="gelu",
        type_vocab_size=2,
        layer_norm_eps=encoder.config.norm_eps,
    )
    copied = {
        WORDS: weights["embeddings.tok_embeddings.weight"],
        "embeddings.LayerNorm.weight": weights["embeddings.norm.weight"],
    }
    return Origin(encoder.config.model_type, config, copied, layers=0, has_positions=False)


def _bert_config(encoder: Encoder, **measures: str | float) -> BertConfig:
    parts = anatomy(encoder)
    return BertConfig(
        vocab_size=parts.vocabulary,
        hidden_size=parts.width,
        num_attention_heads=parts.heads,
        num_hidden_layers=parts.depth,
        max_position_embeddings=parts.max_tokens,
        pad_token_id=encoder.config.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **measures,
    )


_READERS: Mapping[str, Callable[[Encoder], Origin]] = {
    "bert": _same,
    LAYERED: _same,
    "xlm-roberta": _roberta,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
}
