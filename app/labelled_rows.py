"""Examples for a head: texts and their labels out of files, and what is left out of them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.files import STDIN, FileError, Reader, Row, find_files

MIN_EXAMPLES = 3
"""Of each label: fewer cannot be shared out among the folds of a cross-validation."""

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Where files that have columns hold what is wanted."""

    text: str = "text"
    label: str = "label"
    separator: str | None = None
    """Between the labels of a text that may have several; None where each has one."""


@dataclass(frozen=True)
class Examples:
    """N texts and the labels of each; each text is there once."""

    texts: tuple[str, ...]
    labels: tuple[Labels, ...]
    multi: bool
    repeated: int
    """Rows that were left out because an earlier one says the same."""
    contradictions: tuple[str, ...]
    """Places of rows that were left out, because they give one text different labels."""

    @property
    def known(self) -> Labels:
        """All labels, sorted."""
        return tuple(sorted({label for labels in self.labels for label in labels}))

    def counts(self) -> dict[str, int]:
        """Texts of each label."""
        found = Counter(label for labels in self.labels for label in labels)
        return dict(sorted(found.items()))

    def sha256(self) -> str:
        """Of texts and labels, in order."""
        found = hashlib.sha256()
        for row in zip(self.texts, self.labels, strict=True):
            found.update(repr(row).encode())
        return found.hexdigest()


@dataclass(frozen=True)
class _Example:
    place: str
    text: str
    labels: Labels


def read_examples(paths: Sequence[Path], columns: Columns) -> Examples:
    """All rows of files, and of those in folders, that may be learned from.

    A txt file holds a text a line, whose label is the name of the file.

    Raises:
        FileError: a file cannot be read, a row lacks its text or label, or there are too few rows.
    """
    if STDIN in paths:
        raise FileError("examples are read twice, which standard input cannot be; name a file")
    first: dict[str, _Example] = {}
    contradictory: dict[str, list[str]] = {}
    repeated = 0
    for example in _rows(find_files(paths), columns):
        before = first.setdefault(example.text, example)
        if before.labels != example.labels:
            contradictory.setdefault(example.text, [before.place]).append(example.place)
        elif before is not example:
            repeated += 1
    kept = [each for text, each in first.items() if text not in contradictory]
    found = Examples(
        texts=tuple(each.text for each in kept),
        labels=tuple(each.labels for each in kept),
        multi=columns.separator is not None,
        repeated=repeated,
        contradictions=tuple(place for places in contradictory.values() for place in places),
    )
    _check(found)
    return found


def _rows(files: Sequence[Path], columns: Columns) -> Iterator[_Example]:
    for file in files:
        texts = Reader([file], column=columns.text)
        if file.suffix.lower() == ".txt":
            for row in texts:
                if row.text.strip():
                    yield _example(row, file.stem, columns)
            continue
        for row, label in zip(texts, Reader([file], column=columns.label), strict=True):
            _check_readable(row)
            _check_readable(label)
            if row.text.strip() or label.text.strip():
                yield _example(row, label.text, columns)


def _example(row: Row, given: str, columns: Columns) -> _Example:
    place = f"{row.file} row {row.number}"
    _check_readable(row)
    if not row.text.strip():
        raise FileError(f"{place} has a label and no text")
    if columns.separator is None:
        labels: Labels = (given.strip(),) if given.strip() else ()
    else:
        parts = (part.strip() for part in given.split(columns.separator))
        labels = tuple(sorted({part for part in parts if part}))
    if not labels and columns.separator is None:
        raise FileError(f"{place} has a text and no label")
    return _Example(place, row.text, labels)


def _check_readable(row: Row) -> None:
    if row.problem is not None:
        raise FileError(f"{row.file} row {row.number}: {row.problem}")


def _check(found: Examples) -> None:
    counts = found.counts()
    fewest = 1 if found.multi else 2
    if len(counts) < fewest:
        told = ", ".join(map(repr, counts)) or "none"
        raise FileError(
            f"there are too few labels to tell apart: {told}; at least {fewest}{_left_out(found)}"
        )
    for label, count in counts.items():
        if count < MIN_EXAMPLES:
            raise FileError(
                f"label {label!r} has {count} examples; each needs {MIN_EXAMPLES} at least"
                f"{_left_out(found)}"
            )
        if found.multi and len(found.texts) - count < MIN_EXAMPLES:
            raise FileError(
                f"label {label!r} is missing from {len(found.texts) - count} texts; it must be from "
                f"{MIN_EXAMPLES} at least, to be told from them"
            )


def _left_out(found: Examples) -> str:
    """Which rows a user might count who sees that there are too few."""
    kinds = {
        "repeat another": found.repeated,
        "give one text different labels": len(found.contradictions),
    }
    told = " and ".join(f"{count} that {kind}" for kind, count in kinds.items() if count)
    return f". Left out are rows: {told}" if told else ""
