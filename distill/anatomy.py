"""What an encoder is made of: its measures, and where in each family the modules are.

Layers are counted from 1; what lies below layer 1 is the embedding block, 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from distill.layered import FAMILY as LAYERED
from distill.sources import EncoderError

Encoder: TypeAlias = PreTrainedModel
"""Called as `encoder(input_ids=..., attention_mask=...)`; gives `.last_hidden_state` (B, T, H)."""

PIECE_HEAD = "piece_head"
"""Under this name an encoder carries its masked-language head, if it was loaded with one."""


class WordTable(Protocol):
    """The table of word embeddings, whole or as the product of two factors."""

    weight: Tensor
    """(V, H)"""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Measures of an encoder and its modules."""

    family: str
    """`model_type` of its config."""
    depth: int
    """Layers; in a layered body every sub-layer is one."""
    width: int
    """H"""
    heads: int
    """Attention heads, A; each H / A wide."""
    vocabulary: int
    """Rows of the word table."""
    max_tokens: int
    """Longest text that its positions reach."""
    attention_layers: tuple[int, ...]
    """Layers that have attention: all, but for layered bodies."""
    rotary: bool
    """Positions enter by rotating queries and keys. They are seen before that, so that their
    products are not the scores of attention."""
    has_pieces: bool
    """Whether it was loaded with its masked-language head."""
    embeddings: nn.Module
    """The embedding block."""
    word_table: nn.Module
    """The word embeddings, a `WordTable`."""
    layers: tuple[nn.Module, ...]
    """Layer l is `layers[l - 1]`; it returns its hidden state, or a tuple that begins with it."""
    projections: Mapping[int, tuple[nn.Module, ...]]
    """Attention layer -> its linear layers: query, key and value, or one that gives all three."""
    body: nn.Module
    """What is worth compiling: the module that runs all layers."""


@dataclass(frozen=True)
class _Parts:
    word_table: nn.Module
    layers: tuple[nn.Module, ...]
    projections: Mapping[int, tuple[nn.Module, ...]]
    body: nn.Module
    heads: int
    positions_lost: int = 0
    """Rows of the position table below that of the first token."""
    rotary: bool = False


def anatomy(encoder: Encoder) -> Anatomy:
    """Read an encoder's anatomy off it.

    Raises:
        EncoderError: its family is not known.
    """
    config = encoder.config
    family = known_family(config, "this encoder")
    parts = FAMILIES[family](encoder)
    return Anatomy(
        family=family,
        depth=len(parts.layers),
        width=config.hidden_size,
        heads=parts.heads,
        vocabulary=config.vocab_size,
        max_tokens=config.max_position_embeddings - parts.positions_lost,
        attention_layers=tuple(parts.projections),
        rotary=parts.rotary,
        has_pieces=hasattr(encoder, PIECE_HEAD),
        embeddings=encoder.embeddings,
        word_table=parts.word_table,
        layers=parts.layers,
        projections=parts.projections,
        body=parts.body,
    )


def known_family(config: PretrainedConfig, name: str) -> str:
    """The family of a config.

    Raises:
        EncoderError: it is none of those known.
    """
    family: str = config.model_type
    if family not in FAMILIES:
        raise EncoderError(f"{name} is of family {family!r}; known: {', '.join(FAMILIES)}")
    return family


def _bert(encoder: Encoder) -> _Parts:
    layers = tuple(encoder.encoder.layer)
    attentions = [layer.attention.self for layer in layers]
    return _Parts(
        word_table=encoder.embeddings.word_embeddings,
        layers=layers,
        projections={
            number: (part.query, part.key, part.value)
            for number, part in enumerate(attentions, start=1)
        },
        body=encoder.encoder,
        heads=encoder.config.num_attention_heads,
    )


def _roberta(encoder: Encoder) -> _Parts:
    bert = _bert(encoder)
    # the first token is at padding_idx + 1
    lost = encoder.embeddings.padding_idx + 1
    return _Parts(bert.word_table, bert.layers, bert.projections, bert.body, bert.heads, lost)


def _distilbert(encoder: Encoder) -> _Parts:
    layers = tuple(encoder.transformer.layer)
    attentions = [layer.attention for layer in layers]
    return _Parts(
        word_table=encoder.embeddings.word_embeddings,
        layers=layers,
        projections={
            number: (part.q_lin, part.k_lin, part.v_lin)
            for number, part in enumerate(attentions, start=1)
        },
        body=encoder.transformer,
        heads=encoder.config.n_heads,
    )


def _modernbert(encoder: Encoder) -> _Parts:
    layers = tuple(encoder.layers)
    return _Parts(
        word_table=encoder.embeddings.tok_embeddings,
        layers=layers,
        projections={number: (layer.attn.Wqkv,) for number, layer in enumerate(layers, start=1)},
        body=encoder,  # its layers have no module of their own
        heads=encoder.config.num_attention_heads,
        rotary=True,
    )


def _layered(encoder: Encoder) -> _Parts:
    layers = tuple(encoder.encoder.layer)
    attentions = {
        number: layer.attention.self
        for number, layer in enumerate(layers, start=1)
        if hasattr(layer, "attention")
    }
    return _Parts(
        word_table=encoder.embeddings.word_embeddings,
        layers=layers,
        projections={
            number: (part.query, part.key, part.value) for number, part in attentions.items()
        },
        body=encoder.encoder,
        heads=encoder.config.num_attention_heads,
    )


FAMILIES: Mapping[str, Callable[[Encoder], _Parts]] = {
    "bert": _bert,
    "xlm-roberta": _roberta,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    LAYERED: _layered,
}
