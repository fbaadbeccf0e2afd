"""Labelled text: rows of a table with a text and a label each."""

from dataclasses import dataclass

from distill.corpus import CorpusError, read_table
from distill.tables import LabelledTable


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, in the file's order."""

    texts: list[str]
    labels: list[str]


def read_labelled(table: LabelledTable) -> Labelled:
    """Read the rows of `table.path` whose columns hold what `table.where` says.

    Raises:
        CorpusError: the file or a column is missing, or no row is left.
    """
    rows = read_table(table.path, where=table.where)
    for column in (table.text_column, table.label_column):
        if column not in rows.column_names:
            raise CorpusError(
                f"{table.path} has no column {column!r}; it has: {', '.join(rows.column_names)}"
            )
    return Labelled(
        [str(text) for text in rows[table.text_column].to_pylist()],
        [str(label) for label in rows[table.label_column].to_pylist()],
    )
