"""Labelled text: one file of it, or a folder with a file per language."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from distill.tables.table import Table


class LabelledRows(Table):
    """Which columns of a file hold what, and which of its rows are meant."""

    text_column: str
    pair_column: str | None = None
    """Column of the second text, where a label is of two texts, as premise and hypothesis."""
    label_column: str | None = None
    """A label per row; where several are right at once, a list of them. Or else `label`."""
    label: str | None = None
    """The label of every row, where no column says it."""
    label_separator: str | None = None
    """What stands between the labels of a row whose column holds them as one string."""
    where: dict[str, str]
    """Column -> value a row must have, such as split = "train"."""

    @model_validator(mode="after")
    def _labels_are_told_once(self) -> "LabelledRows":
        if (self.label_column is None) == (self.label is None):
            raise ValueError("labelled text has either a label_column or a label")
        if self.label_separator is not None and self.label_column is None:
            raise ValueError("label_separator is of a label_column")
        return self


def check_sides(*tables: LabelledRows) -> None:
    """Refuse rows of one task of which some are pairs and others single texts.

    Raises:
        ValueError: they are.
    """
    columns = [table.pair_column for table in tables]
    if None in columns and any(columns):
        named = ", ".join(column or "none" for column in columns)
        raise ValueError(
            f"rows of one task are all pairs or all single texts; pair_column: {named}"
        )


class LabelledTable(LabelledRows):
    """Labelled text in a parquet, jsonl or csv file."""

    path: Path


class LabelledFolder(LabelledRows):
    """Labelled text of several languages: LANG.parquet in a folder."""

    folder: Path
    label: Literal["language"] | None = None
    """The language that its file is of is the label of every row."""

    def of(self, language: str) -> LabelledTable:
        columns = self.model_dump(exclude={"folder", "label"})
        label = None if self.label is None else language
        return LabelledTable(path=self.folder / f"{language}.parquet", label=label, **columns)
