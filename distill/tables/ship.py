"""From an encoder folder to a model folder and its smaller variants."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from app.runtime.artifact import Name
from distill.tables.table import Share, Table
from distill.tables.text import Corpora, Texts


class ExportTable(Table):
    """From an encoder folder to the fp32 graph of a model folder."""

    encoder: Path
    model_dir: Path
    name: Name
    revision: str
    license: str
    languages: tuple[str, ...]
    max_tokens: PositiveInt
    golden_texts: Texts
    min_cosine: Share


class QuantizeTable(Table):
    """Smaller variants of an exported graph, and how far each may stray from fp32."""

    model_dir: Path
    variants: Annotated[tuple[Literal["int8-avx2", "int8-vnni", "fp16"], ...], Field(min_length=1)]
    word_table_block: PositiveInt | Literal["row"]
    """Values of the int8 word table that share a scale: so many neighbours of a row, or all."""
    fp16_word_table: Literal["fp16", "int8"]
    """What the word table of the fp16 variant is; int8 halves its file."""
    calibration: Corpora
    """Text like that which will be served; int8 takes the ranges of its activations from it."""
    calibration_texts: PositiveInt
    min_cosine_int8: Share
    min_cosine_fp16: Share
    max_probability_error: Share
    keep_fp32: bool
    parity_texts: Texts
