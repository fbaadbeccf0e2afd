"""What to take out of embeddings, from where, and how to tell whether it helped."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from distill.tables.table import Table
from distill.tables.text import Corpora

Languages = Annotated[tuple[str, ...], Field(min_length=1)]


class FitTable(Table):
    """Find the directions that the sentences of a language share."""

    source: str
    """Encoder folder, hub id or model folder."""
    languages: Languages
    corpus: Corpora
    texts_per_language: PositiveInt
    """At most so many; the paper takes 10,000."""
    rank: PositiveInt
    """Directions of each language, and of all together."""
    max_tokens: PositiveInt
    """Longer texts are cut; a model folder has its own limit."""

    @model_validator(mode="after")
    def _languages_span_the_rank(self) -> "FitTable":
        if self.rank > (count := len(set(self.languages))):
            raise ValueError(f"{count} languages have no {self.rank} directions together")
        return self


class ApplyTable(Table):
    """Take the directions of all languages together out of a model folder's embeddings."""

    model_dir: Path
    folder: Path
    """Where the new model folder goes."""
    revision: str
    rank: PositiveInt


class MeasureTable(Table):
    """Score with and without each removal."""

    source: str
    languages: Languages
    source_language: str
    """Of the other side of Tatoeba's pairs."""
    tatoeba: Path
    sts: Path
    split: str
    max_sts_pairs: PositiveInt
    max_tokens: PositiveInt


class LirTable(Table):
    """Language information removal (see `distill.languages`)."""

    directions: Path
    """The file that `fit` writes and the others read."""
    fit: FitTable | None = None
    apply: ApplyTable | None = None
    measure: MeasureTable | None = None
