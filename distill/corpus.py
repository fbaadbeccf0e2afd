"""Read text of many languages and draw rows from it, the same rows for the same seed.

A corpus is held as Arrow columns. Rows are drawn in two stages, language then group (such as
the source), each with probability ~ rows ** exponent, so that neither the largest language nor
the largest source crowds out the rest. A draw is a function of (seed, number) alone: resuming
needs nothing but the number of the next draw.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from app.errors import LightMBERTError
from distill.tables import CorpusTable

SUFFIXES = (".parquet", ".jsonl", ".csv", ".txt")


class CorpusError(LightMBERTError):
    """Text that a recipe names cannot be read, or holds nothing."""

    code = "bad_corpus"


@dataclass(frozen=True)
class Rows:
    """Drawn rows: texts, and their English translations where the corpus is parallel."""

    texts: list[str]
    english: list[str]


@dataclass(frozen=True)
class Corpus:
    """All rows of a recipe's corpus tables, with the groups they are drawn by."""

    text: pa.LargeStringArray
    english: pa.LargeStringArray | None
    language: np.ndarray
    """(rows,) index into `languages`."""
    languages: tuple[str, ...]
    groups: tuple[np.ndarray, ...]
    """Row numbers of each (language, group)."""
    weights: np.ndarray
    """(groups,) probability of each group."""

    def __len__(self) -> int:
        return len(self.text)

    def draw(self, number: int, *, rows: int, seed: int) -> Rows:
        """Draw `rows` rows, with replacement between draws; a function of its arguments alone."""
        rng = np.random.default_rng([seed, number])
        counts = rng.multinomial(rows, self.weights)
        picked = [
            rng.choice(group, size=count, replace=count > len(group))
            for group, count in zip(self.groups, counts, strict=True)
            if count
        ]
        return self.rows(rng.permutation(np.concatenate(picked)))

    def rows(self, numbers: np.ndarray) -> Rows:
        english = self.english.take(pa.array(numbers)).to_pylist() if self.english is not None else []
        return Rows(self.text.take(pa.array(numbers)).to_pylist(), english)

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


def load_corpus(tables: Sequence[CorpusTable], *, exponent: float) -> Corpus:
    """Read every table's text into one corpus.

    Raises:
        CorpusError: a file is missing or of an unknown kind, a column is missing, or no row is
            left; or some tables are parallel and others are not.
    """
    parts = [part for table in tables for part in _read(table)]
    table = pa.concat_tables(parts)
    if len(table) == 0:
        raise CorpusError(f"no text in {', '.join(str(t.path or t.hub) for t in tables)}")
    parallel = {table.pair_column is not None for table in tables}
    if len(parallel) > 1:
        raise CorpusError("parallel and monolingual text cannot be mixed in one run")
    language = table["language"].combine_chunks().dictionary_encode()
    names = tuple(language.dictionary.to_pylist())
    codes = language.indices.to_numpy()
    groups, weights = _groups(codes, table["group"], exponent)
    return Corpus(
        text=_one_chunk(table["text"]),
        english=_one_chunk(table["english"]) if True in parallel else None,
        language=codes,
        languages=names,
        groups=groups,
        weights=weights,
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.LargeStringArray:
    # Picking rows out of many chunks joins them anew each time; 64-bit offsets let one chunk hold all.
    return column.cast(pa.large_string()).combine_chunks()


def _groups(
    codes: np.ndarray, group: pa.ChunkedArray, exponent: float
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Row numbers and probability of each (language, group)."""
    group_codes = group.combine_chunks().dictionary_encode().indices.to_numpy()
    groups, weights = [], []
    for code in np.unique(codes):
        of_language = np.flatnonzero(codes == code)
        members = [
            of_language[group_codes[of_language] == g] for g in np.unique(group_codes[of_language])
        ]
        share = np.array([len(rows) for rows in members], dtype=float) ** exponent
        groups += members
        weights.append(len(of_language) ** exponent * share / share.sum())
    flat = np.concatenate(weights)
    return tuple(groups), flat / flat.sum()


def _read(table: CorpusTable) -> Iterator[pa.Table]:
    if table.hub is not None:
        yield _columns(_read_hub(table), table, language=table.language or "und")
        return
    assert table.path is not None, "CorpusTable checked that one of path and hub is set"
    files = _files(table) if table.path.is_dir() else [table.path]
    for file in files:
        language = table.language or (file.stem if table.path.is_dir() else "und")
        yield _columns(_read_file(file), table, language=language)


def _files(table: CorpusTable) -> list[Path]:
    assert table.path is not None
    found = {file.stem: file for file in sorted(table.path.iterdir()) if file.suffix in SUFFIXES}
    missing = sorted(set(table.languages or ()) - set(found))
    if missing or not found:
        raise CorpusError(
            f"{table.path} has no file for: {', '.join(missing) or 'any language'} "
            f"(looked for LANG{', LANG'.join(SUFFIXES)})"
        )
    return [
        file
        for language, file in found.items()
        if not table.languages or language in table.languages
    ]


def read_table(file: Path, *, where: Mapping[str, str] | None = None) -> pa.Table:
    """Read a file whole, keeping the rows whose columns hold what `where` says.

    Raises:
        CorpusError: the file is missing or malformed, or of an unknown kind; a column of `where`
            is missing, or no row is left.
    """
    rows = _read_file(file)
    for column, value in (where or {}).items():
        if column not in rows.column_names:
            raise CorpusError(f"{file} has no column {column!r}; it has: {', '.join(rows.column_names)}")
        rows = rows.filter(pc.equal(rows[column], value))
    if where and len(rows) == 0:
        raise CorpusError(f"{file} has no row where {dict(where)}")
    return rows


def _read_file(file: Path) -> pa.Table:
    if not file.is_file():
        raise CorpusError(f"{file} does not exist")
    try:
        if file.suffix == ".parquet":
            return pa.parquet.read_table(file)
        if file.suffix == ".jsonl":
            return pa.json.read_json(file)
        if file.suffix == ".csv":
            return pa.csv.read_csv(file)
        if file.suffix == ".txt":
            return pa.table({"text": file.read_text(encoding="utf-8").splitlines()})
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
    raise CorpusError(f"{file}: unknown kind {file.suffix!r}; known: {', '.join(SUFFIXES)}")


def _read_hub(table: CorpusTable) -> pa.Table:
    import datasets  # slow to import, and only this branch needs it

    rows = datasets.load_dataset(table.hub, table.hub_config, split=table.split, streaming=True)
    wanted = [c for c in (table.text_column, table.pair_column, table.group_column) if c]
    limited = rows.take(table.max_rows) if table.max_rows else rows
    return pa.Table.from_pylist([{column: row[column] for column in wanted} for row in limited])


def _columns(raw: pa.Table, table: CorpusTable, *, language: str) -> pa.Table:
    """Reduce to the columns text, english, group, language; drop rows without text."""
    for column in filter(None, (table.text_column, table.pair_column, table.group_column)):
        if column not in raw.column_names:
            raise CorpusError(
                f"{table.path or table.hub} has no column {column!r}; "
                f"it has: {', '.join(raw.column_names)}"
            )
    raw = raw.slice(0, table.max_rows) if table.max_rows else raw
    text = raw[table.text_column].cast(pa.string())
    none = pa.array([""] * len(raw), pa.string())
    english = raw[table.pair_column].cast(pa.string()) if table.pair_column else none
    group = raw[table.group_column].cast(pa.string()) if table.group_column else none
    columns = pa.table(
        {
            "text": text,
            "english": english,
            "group": group,
            "language": pa.array([language] * len(raw)),
        }
    )
    has_text = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(columns["text"])), 0)
    return columns.filter(has_text)
