"""Read text of many languages and draw rows from it, the same rows for the same seed.

A corpus is held as Arrow columns. Rows are drawn in two stages, language then group (such as
the source), each with probability ~ rows ** exponent, so that neither the largest language nor
the largest source crowds out the rest. A draw is a function of (seed, number) alone: resuming
needs nothing but the number of the next draw.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from app.errors import LightMBERTError
from distill.tables.text import CorpusTable

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
        wanted = pa.array(numbers)
        english = [] if self.english is None else self.english.take(wanted).to_pylist()
        return Rows(self.text.take(wanted).to_pylist(), english)

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
    parallel = {table.pair_column is not None for table in tables}
    if len(parallel) > 1:
        raise CorpusError("parallel and monolingual text cannot be mixed in one run")
    table = pa.concat_tables([part for table in tables for part in _read(table)])
    if len(table) == 0:
        raise CorpusError(f"no text in {', '.join(str(t.path or t.hub) for t in tables)}")
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
        yield _columns(_read_hub(table), table, table.hub, language=table.language or "und")
        return
    assert table.path is not None, "CorpusTable checked that one of path and hub is set"
    files = _files(table) if table.path.is_dir() else [table.path]
    for file in files:
        language = table.language or (file.stem if table.path.is_dir() else "und")
        yield _columns(_read_file(file), table, file, language=language)


def _files(table: CorpusTable) -> list[Path]:
    assert table.path is not None
    found: dict[str, Path] = {}
    for file in sorted(table.path.iterdir()):
        if file.suffix in SUFFIXES and found.setdefault(file.stem, file) != file:
            raise CorpusError(f"{found[file.stem]} and {file} are both of {file.stem}: which one?")
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


def read_table(
    file: Path, *, columns: Iterable[str] = (), where: Mapping[str, str] | None = None
) -> pa.Table:
    """Read a file whole, keeping the rows whose columns hold what `where` says.

    Raises:
        CorpusError: the file is missing or malformed, or of an unknown kind; one of `columns` or
            a column of `where` is missing, or no row is left.
    """
    rows, wanted = _read_file(file), where or {}
    _require_columns(rows.column_names, [*columns, *wanted], file)
    for column, value in wanted.items():
        rows = rows.filter(pc.equal(_strings(rows, column, file), value))
    if len(rows) == 0:
        raise CorpusError(f"{file} has no row" + (f" where {dict(wanted)}" if wanted else ""))
    return rows


def _require_columns(found: Iterable[str], wanted: Iterable[str], place: object) -> None:
    names = list(found)
    for column in wanted:
        if column not in names:
            raise CorpusError(f"{place} has no column {column!r}; it has: {', '.join(names)}")


def _strings(rows: pa.Table, column: str, place: object) -> pa.ChunkedArray:
    try:
        return rows[column].cast(pa.string())
    except pa.ArrowException as error:
        kind = rows[column].type
        raise CorpusError(f"{place}: column {column!r} is {kind}, not text") from error


def _read_file(file: Path) -> pa.Table:
    if not file.is_file():
        raise CorpusError(f"{file} does not exist")
    try:
        if file.suffix == ".parquet":
            return pa.parquet.read_table(file)
        if file.suffix == ".jsonl":
            return pa.json.read_json(file)
        if file.suffix == ".csv":
            lines_in_quotes = pa.csv.ParseOptions(newlines_in_values=True)
            return pa.csv.read_csv(file, parse_options=lines_in_quotes)
        if file.suffix == ".txt":
            # Not splitlines(): it also splits at characters that stand inside texts, as U+2028.
            return pa.table({"text": file.read_text(encoding="utf-8").split("\n")})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
    raise CorpusError(f"{file}: unknown kind {file.suffix!r}; known: {', '.join(SUFFIXES)}")


def _read_hub(table: CorpusTable) -> pa.Table:
    import datasets  # slow to import, and only this branch needs it

    wanted = [c for c in (table.text_column, table.pair_column, table.group_column) if c]
    kept = []
    try:
        rows = datasets.load_dataset(table.hub, table.hub_config, split=table.split, streaming=True)
        for row in islice(rows, table.max_rows):  # its own take() reads one row further
            _require_columns(row, wanted, table.hub)
            kept.append([row[column] for column in wanted])
    except (OSError, ValueError) as error:
        raise CorpusError(f"{table.hub} (split {table.split}) cannot be read: {error}") from error
    return pa.table({c: [row[index] for row in kept] for index, c in enumerate(wanted)})


def _columns(raw: pa.Table, table: CorpusTable, place: object, *, language: str) -> pa.Table:
    """Reduce to the columns text, english, group, language; drop rows that lack a side."""
    wanted = [c for c in (table.text_column, table.pair_column, table.group_column) if c]
    _require_columns(raw.column_names, wanted, place)
    raw = raw.slice(0, table.max_rows) if table.max_rows else raw
    nothing = pa.repeat(pa.scalar(""), len(raw))
    text = _strings(raw, table.text_column, place)
    english = _strings(raw, table.pair_column, place) if table.pair_column else nothing
    group = _strings(raw, table.group_column, place) if table.group_column else nothing
    columns = pa.table(
        {
            "text": text,
            "english": english,
            "group": pc.fill_null(group, ""),
            "language": pa.repeat(pa.scalar(language), len(raw)),
        }
    )
    columns = columns.filter(_is_written(columns["text"]))
    return columns.filter(_is_written(columns["english"])) if table.pair_column else columns


def _is_written(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """True where there is more than white space; null, and so dropped, where there is nothing."""
    return pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
