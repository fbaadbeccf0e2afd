"""Labelled text: rows of a table with a text, or two, and a label, or several, each."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.runtime.outputs import Floats
from app.runtime.tokenizer import Text
from distill.reading import CorpusError, read_table
from distill.tables.labelled import LabelledTable


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, in the file's order."""

    texts: list[Text]
    """A pair of them where the table names a pair column."""
    label_sets: list[tuple[str, ...]]
    """The labels of each text; one where the problem is of one label."""

    @property
    def labels(self) -> list[str]:
        """The label of each text, where each has one.

        Raises:
            CorpusError: a text has none, or several.
        """
        for index, labels in enumerate(self.label_sets):
            if len(labels) != 1:
                raise CorpusError(f"row {index} has {len(labels)} labels; one is needed")
        return [label for (label,) in self.label_sets]

    @property
    def known(self) -> tuple[str, ...]:
        """Every label there is, sorted."""
        return tuple(sorted({label for labels in self.label_sets for label in labels}))

    def targets(self, labels: Sequence[str]) -> Floats:
        """(N, C): 1 where text n has label c.

        Raises:
            CorpusError: a text has a label that is not among `labels`.
        """
        column = {label: index for index, label in enumerate(labels)}
        if strange := sorted(set(self.known) - set(column)):
            raise CorpusError(
                f"label {strange[0]!r} was not among those learned: {', '.join(labels)}"
            )
        found = np.zeros((len(self.texts), len(labels)), dtype=np.float32)
        for row, of_text in enumerate(self.label_sets):
            found[row, [column[label] for label in of_text]] = 1
        return found

    def rows(self, numbers: Sequence[int]) -> "Labelled":
        """Those rows, in that order."""
        return Labelled(
            [self.texts[number] for number in numbers],
            [self.label_sets[number] for number in numbers],
        )

    def fingerprint(self) -> str:
        """Short hash of every text and label."""
        digest = hashlib.sha256()
        for text, labels in zip(self.texts, self.label_sets, strict=True):
            digest.update(repr((text, labels)).encode())
        return digest.hexdigest()[:16]


def read_labelled(table: LabelledTable) -> Labelled:
    """Read the rows of `table.path` whose columns hold what `table.where` says.

    Raises:
        CorpusError: the file or a column is missing, a row lacks text or label, or none is left.
    """
    text_columns = [table.text_column, *([table.pair_column] if table.pair_column else [])]
    columns = [*text_columns, *([table.label_column] if table.label_column else [])]
    rows = read_table(table.path, columns=columns, where=table.where)
    for column in columns:
        if empty := rows[column].null_count:
            raise CorpusError(f"{table.path}: {empty} of {len(rows)} rows have no {column!r}")
    sides = [rows[column].cast(pa.string()).to_pylist() for column in text_columns]
    texts: list[Text] = sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))
    if table.label_column is None:
        assert table.label is not None, "LabelledRows checked that one of both is set"
        return Labelled(texts, [(table.label,)] * len(texts))
    labels = rows[table.label_column]
    if _is_list(labels.type) and pc.list_flatten(labels).null_count:
        raise CorpusError(f"{table.path}: a list of {table.label_column!r} holds a null")
    return Labelled(texts, _label_sets(labels, table.label_separator))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _label_sets(column: pa.ChunkedArray, separator: str | None) -> list[tuple[str, ...]]:
    if _is_list(column.type):
        return [tuple(str(label) for label in labels) for labels in column.to_pylist()]
    stated: list[str] = column.cast(pa.string()).to_pylist()
    if separator is None:
        return [(label,) for label in stated]
    return [
        tuple(part.strip() for part in labels.split(separator) if part.strip()) for labels in stated
    ]
