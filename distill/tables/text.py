"""Text to learn from, plain and labelled."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from distill.tables.table import Table


class CorpusTable(Table):
    """Text to read: local files or folders, or a dataset of the Hugging Face hub.

    A folder holds one file per language, named LANG.parquet, LANG.jsonl, LANG.csv or LANG.txt,
    or a folder LANG of several such files.
    """

    path: Path | None = None
    hub: str | None = None
    hub_config: str | None = None
    """Configuration of the hub dataset; `{language}` in it stands for each of `languages`."""
    split: str = "train"
    language: str | None = None
    """Language of a single file or hub dataset; a folder's files name theirs."""
    languages: tuple[str, ...] | None = None
    """Keep only these of a folder's, None keeps all; of a hub dataset, the configurations read."""
    text_column: str = "text"
    pair_column: str | None = None
    """Column of the English translation, for parallel text."""
    group_column: str | None = None
    """Column whose values are sampled apart within a language, such as the source."""
    group_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Group -> how much more often it is drawn within its language than its rows say; 1 for those
    that are not named."""
    max_rows: PositiveInt | None = None
    """Of each language: its first rows."""
    streaming: bool = False
    """Read while training and never whole: for text that memory or disk would not hold."""
    rows_by_language: dict[str, PositiveInt] | None = None
    """How many rows a streamed language has, where its files do not say: sampling weighs by it."""
    take: Literal["beginning", "line"] = "beginning"
    """Of a text too long for one row of tokens: its beginning, or a line drawn anew each time, by
    length. Articles are such texts."""

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        named = (self.text_column, self.pair_column, self.group_column)
        return [column for column in named if column]

    @model_validator(mode="after")
    def _one_place(self) -> "CorpusTable":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a corpus has either a path or a hub name")
        per_language = "{language}" in (self.hub_config or "")
        if self.hub is not None and (self.languages is not None) != per_language:
            raise ValueError("languages of a hub dataset go with {language} in hub_config")
        if self.language is not None and self.languages is not None:
            raise ValueError("language and languages exclude each other")
        return self

    @model_validator(mode="after")
    def _what_streams(self) -> "CorpusTable":
        if self.streaming and self.group_column is not None:
            raise ValueError("group_column weighs groups by their rows; a stream has not seen them")
        if self.group_weights and self.group_column is None:
            raise ValueError("group_weights goes with group_column")
        if self.rows_by_language is not None and not self.streaming:
            raise ValueError("rows_by_language is for streaming text; other text is counted")
        if self.take == "line" and self.pair_column is not None:
            raise ValueError("take = 'line' would part a text from its translation")
        return self


Corpora = Annotated[tuple[CorpusTable, ...], Field(min_length=1)]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]
