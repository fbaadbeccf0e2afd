"""Which languages an encoder is to keep the vocabulary of."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

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
