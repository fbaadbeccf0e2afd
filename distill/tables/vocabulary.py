"""What makes an encoder multilingual: a tokenizer, and a table for its pieces."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from distill.tables.table import Share, Table
from distill.tables.text import Corpora


class TokenizerTable(Table):
    """Train a tokenizer on several languages."""

    corpus: Corpora
    kind: Literal["bpe", "unigram"]
    vocabulary: PositiveInt
    texts_per_language: PositiveInt
    texts_of: dict[str, PositiveInt] = Field(default_factory=dict)
    """Languages that get more texts, or fewer, than the others."""
    folder: Path


class AlignTable(Table):
    """Give an English encoder a multilingual embedding table (see `distill.align`)."""

    english: Path
    tokenizer: Path
    corpus: Corpora
    steps: PositiveInt
    batch_texts: PositiveInt
    learning_rate: PositiveFloat
    exponent: Share
    max_tokens: PositiveInt
    contrastive_weight: NonNegativeFloat
    contrastive_temperature: PositiveFloat
