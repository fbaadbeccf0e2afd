"""Which languages an encoder is to keep the vocabulary of."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from distill.tables.table import Share, Table
from distill.tables.text import Corpora


class TrimTable(Table):
    """From an encoder to the same with fewer pieces (see `distill.trim`)."""

    encoder: str
    """Folder or hub id."""
    folder: Path
    """Where the smaller encoder goes."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)]
    corpus: Corpora
    """Text of at least these languages."""
    texts_per_language: PositiveInt
    """At most so many are read."""
    min_share: Share
    """Of a language's texts that a piece must occur in."""
    piece_head: bool
    """Whether its masked-language head goes along; without one it cannot teach by pieces."""

    @model_validator(mode="after")
    def _keeps_its_source(self) -> "TrimTable":
        if Path(self.encoder).resolve() == self.folder.resolve():
            raise ValueError(f"encoder and folder are both {self.folder}; the whole one would go")
        return self
