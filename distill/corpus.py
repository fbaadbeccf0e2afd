"""Text of many languages in memory, and rows drawn from it, the same rows for the same seed.

A corpus is held as Arrow columns. Rows are drawn in two stages, language then group (such as
the source), each with probability ~ rows ** exponent, so that neither the largest language nor
the largest source crowds out the rest. A draw is a function of (seed, number) alone: resuming
needs nothing but the number of the next draw.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.reading import CorpusError, read_source, sources_of
from distill.tables.text import CorpusTable


@dataclass(frozen=True)
class Rows:
    """Drawn rows: texts, and their English translations where the corpus is parallel."""

    texts: list[str]
    english: list[str]
    languages: list[int]
    """Of each row, the index into the corpus's languages."""


@dataclass(frozen=True)
class Share:
    """Which process of how many reads."""

    process: int = 0
    processes: int = 1


ALONE = Share()


class Text(Protocol):
    """What batches are drawn from: a corpus in memory, or a stream (see `distill.streams`)."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Sorted."""

    @property
    def parallel(self) -> bool: ...

    def draw(self, number: int, *, rows: int, seed: int) -> Rows: ...

    def place(self) -> str:
        """Where the next draw reads on, empty where its number tells that already."""

    def go_to(self, place: str) -> None: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Corpus:
    """All rows of a recipe's corpus tables, with the groups they are drawn by."""

    text: pa.LargeStringArray
    english: pa.LargeStringArray | None
    language: np.ndarray
    """(rows,) index into `languages`."""
    languages: tuple[str, ...]
    """Sorted."""
    by_line: np.ndarray
    """(rows,) true where a draw takes one line of the text."""
    groups: tuple[np.ndarray, ...]
    """Row numbers of each (language, group)."""
    weights: np.ndarray
    """(groups,) probability of each group."""

    def __len__(self) -> int:
        return len(self.text)

    @property
    def parallel(self) -> bool:
        return self.english is not None

    def draw(self, number: int, *, rows: int, seed: int) -> Rows:
        """Draw `rows` rows, with replacement between draws; a function of its arguments alone."""
        rng = np.random.default_rng([seed, number])
        counts = rng.multinomial(rows, self.weights)
        picked = [
            rng.choice(group, size=count, replace=count > len(group))
            for group, count in zip(self.groups, counts, strict=True)
            if count
        ]
        numbers = rng.permutation(np.concatenate(picked))
        wanted = pa.array(numbers)
        texts = self.text.take(wanted).to_pylist()
        for index in np.flatnonzero(self.by_line[numbers]):
            texts[index] = a_line(texts[index], rng.random())
        english = [] if self.english is None else self.english.take(wanted).to_pylist()
        return Rows(texts, english, self.language[numbers].tolist())

    def place(self) -> str:
        return ""

    def go_to(self, place: str) -> None:
        assert not place, "draws from memory are found by their number"

    def of_language(self, language: str, *, at_most: int, seed: int) -> list[str]:
        """At most so many texts of one language, drawn without replacement."""
        rows = np.flatnonzero(self.language == self.languages.index(language))
        rng = np.random.default_rng([seed, self.languages.index(language)])
        chosen = rng.permutation(rows)[:at_most]
        return [str(text) for text in self.text.take(pa.array(chosen)).to_pylist()]

    def fingerprint(self) -> str:
        """Short hash of sizes and a sample of rows: which data a student was made from."""
        digest = hashlib.sha256(f"{len(self)} {self.languages}".encode())
        step = max(1, len(self) // 1000)
        for text in self.text.take(pa.array(np.arange(0, len(self), step))).to_pylist():
            digest.update(text.encode())
        return digest.hexdigest()[:16]


def a_line(text: str, share: float) -> str:
    """The line found at this share (0 to 1) of a text's characters, blank lines left out."""
    lines = [line for line in text.split("\n") if line.strip()]
    ends = np.cumsum([len(line) for line in lines])
    return lines[int(np.searchsorted(ends, share * ends[-1], side="right"))]


def load_corpus(tables: Sequence[CorpusTable], *, exponent: float) -> Corpus:
    """Read every table's text into one corpus.

    Raises:
        CorpusError: a file is missing or of an unknown kind, a column is missing, or no row is
            left; some tables are parallel and others are not; a table is for streaming.
    """
    if any(table.streaming for table in tables):
        raise CorpusError(
            "this text is read whole: set streaming = false, and max_rows if it is much"
        )
    parallel = is_parallel(tables)
    parts = [
        (read_source(source, table), table) for table in tables for source in sources_of(table)
    ]
    rows = pa.concat_tables([part for part, _ in parts])
    if len(rows) == 0:
        raise CorpusError(f"no text in {places_of(tables)}")
    language = rows["language"].combine_chunks().dictionary_encode()
    names = tuple(sorted(language.dictionary.to_pylist()))
    order = np.array([names.index(name) for name in language.dictionary.to_pylist()])
    codes = order[language.indices.to_numpy()]
    _check_weights(parts)
    row_weights = np.concatenate([_row_weights(part["group"], table) for part, table in parts])
    groups, weights = _groups(codes, rows["group"], exponent, row_weights)
    return Corpus(
        text=_one_chunk(rows["text"]),
        english=_one_chunk(rows["english"]) if parallel else None,
        language=codes,
        languages=names,
        by_line=np.concatenate([np.full(len(part), t.take == "line") for part, t in parts]),
        groups=groups,
        weights=weights,
    )


def is_parallel(tables: Sequence[CorpusTable]) -> bool:
    """Whether the tables give translations.

    Raises:
        CorpusError: some do and others do not.
    """
    parallel = {table.pair_column is not None for table in tables}
    if len(parallel) > 1:
        raise CorpusError("parallel and monolingual text cannot be mixed in one run")
    return True in parallel


def places_of(tables: Sequence[CorpusTable]) -> str:
    """Where the tables' text lies, as it is told to people."""
    return ", ".join(str(table.path or table.hub) for table in tables)


def _one_chunk(column: pa.ChunkedArray) -> pa.LargeStringArray:
    # Picking rows out of many chunks joins them anew each time; 64-bit offsets let one chunk hold all.
    return column.cast(pa.large_string()).combine_chunks()


def _check_weights(parts: Sequence[tuple[pa.Table, CorpusTable]]) -> None:
    """Refuse a weight for a group that no row is of: a slip of the pen would go unnoticed."""
    for table in {id(table): table for _, table in parts}.values():
        there = {
            name
            for part, of_table in parts
            if of_table is table
            for name in pc.unique(part["group"]).to_pylist()
        }
        if strange := sorted(set(table.group_weights) - there):
            raise CorpusError(
                f"group_weights names {strange[0]!r}; {table.path or table.hub} has "
                f"{', '.join(sorted(there))}"
            )


def _row_weights(group: pa.ChunkedArray, table: CorpusTable) -> np.ndarray:
    """(rows,) the weight of each row's group, as the table gives it."""
    found = group.combine_chunks().dictionary_encode()
    by_group = [table.group_weights.get(name, 1.0) for name in found.dictionary.to_pylist()]
    weights: np.ndarray = np.array(by_group, dtype=float)[found.indices.to_numpy()]
    return weights


def _groups(
    codes: np.ndarray, group: pa.ChunkedArray, exponent: float, row_weights: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Row numbers and probability of each (language, group)."""
    group_codes = group.combine_chunks().dictionary_encode().indices.to_numpy()
    groups, weights = [], []
    for code in np.unique(codes):
        of_language = np.flatnonzero(codes == code)
        members = [
            of_language[group_codes[of_language] == g] for g in np.unique(group_codes[of_language])
        ]
        share = np.array([len(rows) ** exponent * row_weights[rows].mean() for rows in members])
        groups += members
        weights.append(len(of_language) ** exponent * share / share.sum())
    flat = np.concatenate(weights)
    return tuple(groups), flat / flat.sum()
