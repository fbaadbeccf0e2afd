"""Labelled text: rows of a table with a text and a label each."""

from dataclasses import dataclass

import pyarrow as pa

from distill.corpus import CorpusError, read_table
from distill.tables.text import LabelledTable


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, in the file's order."""

    texts: list[str]
    labels: list[str]


def read_labelled(table: LabelledTable) -> Labelled:
    """Read the rows of `table.path` whose columns hold what `table.where` says.

    Raises:
        CorpusError: the file or a column is missing, a row lacks text or label, or none is left.
    """
    columns = table.text_column, table.label_column
    rows = read_table(table.path, columns=columns, where=table.where)
    for column in columns:
        if empty := rows[column].null_count:
            raise CorpusError(f"{table.path}: {empty} of {len(rows)} rows have no {column!r}")
    texts, labels = (rows[column].cast(pa.string()).to_pylist() for column in columns)
    return Labelled(texts, labels)
