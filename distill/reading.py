"""Text files and hub datasets, read whole into Arrow tables.

A folder of text holds each language as LANG.parquet, LANG.jsonl, LANG.csv or LANG.txt, or as a
folder LANG of such files, its shards.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from app.errors import LightMBERTError
from distill.tables.text import CorpusTable

SUFFIXES = (".parquet", ".jsonl", ".csv", ".txt")
UNKNOWN_LANGUAGE = "und"
JSONL_PIECE_BYTES = 2**24
"""A jsonl file is read by pieces, none of which may be shorter than a line: articles are long."""


class CorpusError(LightMBERTError):
    """Text that a recipe names cannot be read, or holds nothing."""

    code = "bad_corpus"


@dataclass(frozen=True)
class Source:
    """One language of a corpus table: files here, or one configuration of a hub dataset."""

    language: str
    files: tuple[Path, ...] = ()
    hub: str | None = None
    config: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        if self.hub is None:
            return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)
        return f"{self.hub}{f' ({self.config})' if self.config else ''}, split {self.split}"


def sources_of(table: CorpusTable) -> list[Source]:
    """What a table names, a source per language, sorted by language where there are several.

    Raises:
        CorpusError: nothing is there, or nothing for a language that the table asks for.
    """
    if table.hub is not None:
        return _hub_sources(table, table.hub)
    assert table.path is not None, "CorpusTable checked that one of path and hub is set"
    if not table.path.is_dir():
        return [Source(table.language or UNKNOWN_LANGUAGE, (table.path,))]
    return [
        Source(table.language or language, files) for language, files in _folder(table, table.path)
    ]


def _hub_sources(table: CorpusTable, hub: str) -> list[Source]:
    if table.languages is None:
        language = table.language or UNKNOWN_LANGUAGE
        return [Source(language, hub=hub, config=table.hub_config, split=table.split)]
    assert table.hub_config is not None, "CorpusTable checked that it holds {language}"
    return [
        Source(
            language,
            hub=hub,
            config=table.hub_config.replace("{language}", language),
            split=table.split,
        )
        for language in sorted(table.languages)
    ]


def _folder(table: CorpusTable, folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix not in SUFFIXES and not (entry.is_dir() and _shards(entry)):
            continue
        language = entry.name if entry.is_dir() else entry.stem
        if found.setdefault(language, entry) != entry:
            raise CorpusError(f"{found[language]} and {entry} are both of {language}: which one?")
    missing = sorted(set(table.languages or ()) - set(found))
    if missing or not found:
        raise CorpusError(
            f"{folder} has no file for: {', '.join(missing) or 'any language'} "
            f"(looked for LANG{', LANG'.join(SUFFIXES)} and folders LANG of such files)"
        )
    for language in sorted(found):
        if table.languages is None or language in table.languages:
            entry = found[language]
            yield language, tuple(_shards(entry)) if entry.is_dir() else (entry,)


def _shards(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)


def read_source(source: Source, table: CorpusTable) -> pa.Table:
    """All rows of a source: columns text, english, group, language; rows that lack a side left out.

    `max_rows` of the table counts rows of the source as they stand there.

    Raises:
        CorpusError: a file is missing, malformed or of an unknown kind; a column is missing or
            holds no text; the hub cannot be read.
    """
    if source.hub is not None:
        return _columns(_read_hub(source, table), table, source, language=source.language)
    parts, left = [], table.max_rows
    for file in source.files:
        rows = read_file(file)
        rows = rows if left is None else rows.slice(0, left)
        left = None if left is None else left - len(rows)
        parts.append(_columns(rows, table, file, language=source.language))
    return pa.concat_tables(parts)


def read_table(
    file: Path, *, columns: Iterable[str] = (), where: Mapping[str, str] | None = None
) -> pa.Table:
    """Read a file whole, keeping the rows whose columns hold what `where` says.

    Raises:
        CorpusError: the file is missing or malformed, or of an unknown kind; one of `columns` or
            a column of `where` is missing, or no row is left.
    """
    rows, wanted = read_file(file), where or {}
    require_columns(rows.column_names, [*columns, *wanted], file)
    for column, value in wanted.items():
        rows = rows.filter(pc.equal(_strings(rows, column, file), value))
    if len(rows) == 0:
        raise CorpusError(f"{file} has no row" + (f" where {dict(wanted)}" if wanted else ""))
    return rows


def require_columns(found: Iterable[str], wanted: Iterable[str], place: object) -> None:
    """Raise CorpusError if a wanted column is not among those found at a place."""
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


def read_file(file: Path) -> pa.Table:
    """A parquet, jsonl, csv or txt file (a text a line, column `text`) as it stands.

    Raises:
        CorpusError: it is missing, malformed or of another kind.
    """
    if not file.is_file():
        raise CorpusError(f"{file} does not exist")
    try:
        if file.suffix == ".parquet":
            return pa.parquet.read_table(file)
        if file.suffix == ".jsonl":
            pieces = pa.json.ReadOptions(block_size=JSONL_PIECE_BYTES)
            return pa.json.read_json(file, read_options=pieces)
        if file.suffix == ".csv":
            lines_in_quotes = pa.csv.ParseOptions(newlines_in_values=True)
            return pa.csv.read_csv(file, parse_options=lines_in_quotes)
        if file.suffix == ".txt":
            # Not splitlines(): it also splits at characters that stand inside texts, as U+2028.
            return pa.table({"text": file.read_text(encoding="utf-8").split("\n")})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error
    raise CorpusError(f"{file}: unknown kind {file.suffix!r}; known: {', '.join(SUFFIXES)}")


def open_hub(source: Source) -> Any:  # noqa: ANN401 - datasets brings no types
    """The source's rows as an IterableDataset, of which nothing is downloaded yet.

    Raises:
        CorpusError: the hub, or this dataset, configuration or split, cannot be reached.
    """
    import datasets  # slow to import, and only hub datasets need it

    try:
        return datasets.load_dataset(source.hub, source.config, split=source.split, streaming=True)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{source} cannot be read: {error}") from error


def _read_hub(source: Source, table: CorpusTable) -> pa.Table:
    kept, dataset = [], open_hub(source)
    try:
        for row in islice(dataset, table.max_rows):  # its own take() reads one row further
            require_columns(row, table.columns, source)
            kept.append([row[column] for column in table.columns])
    except (OSError, ValueError) as error:
        raise CorpusError(f"{source} cannot be read: {error}") from error
    return pa.table({c: [row[index] for row in kept] for index, c in enumerate(table.columns)})


def _columns(raw: pa.Table, table: CorpusTable, place: object, *, language: str) -> pa.Table:
    require_columns(raw.column_names, table.columns, place)
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
