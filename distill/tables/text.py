"""Text to learn from, plain and labelled."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from distill.tables.table import Table


class CorpusTable(Table):
    """Text to read: local files or folders, or a dataset of the Hugging Face hub.

    A folder holds one file per language, named LANG.parquet, LANG.jsonl, LANG.csv or LANG.txt.
    """

    path: Path | None = None
    hub: str | None = None
    hub_config: str | None = None
    split: str = "train"
    language: str | None = None
    """Language of a single file or hub dataset; a folder's files name theirs."""
    languages: tuple[str, ...] | None = None
    """Keep only these of a folder's; None keeps all."""
    text_column: str = "text"
    pair_column: str | None = None
    """Column of the English translation, for parallel text."""
    group_column: str | None = None
    """Column whose values are sampled apart within a language, such as the source."""
    max_rows: PositiveInt | None = None
    """Of each file, or of the hub dataset: its first rows."""

    @model_validator(mode="after")
    def _one_place(self) -> "CorpusTable":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a corpus has either a path or a hub name")
        return self


Corpora = Annotated[tuple[CorpusTable, ...], Field(min_length=1)]


class LabelledTable(Table):
    """Labelled text in a parquet, jsonl or csv file."""

    path: Path
    text_column: str
    label_column: str
    where: dict[str, str]
    """Column -> value a row must have, such as split = "train"."""
