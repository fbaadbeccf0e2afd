"""Rows of text from files and standard input, one at a time.

Memory holds one row, or one slice of a parquet file. A row that is blank or cannot be read is a
row all the same; a file that is not what its name says is an error that names file and place.
"""

import codecs
import csv
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from app.errors import LightMBERTError

STDIN = Path("-")
MAX_ROW_BYTES = 16_777_216
"""A longer row is no text, but a file with other line ends or an unclosed quote."""

_SLICE_ROWS = 1_024
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class FileError(LightMBERTError):
    """A file cannot be read or written, or is not what its name says."""

    code = "bad_file"


@dataclass(frozen=True, slots=True)
class Row:
    file: str
    number: int
    """Counted from 1. The header of a csv file is not counted."""
    text: str
    """Blank where the row has no text."""
    problem: str | None = None
    """Why it cannot be read, of a row that is not what its neighbours are."""
    read_bytes: int = field(default=0, compare=False)
    """Of all files so far, this row included."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In the place of a text."""

    why: str


Read = str | Unreadable


class Reader:
    """Iterates over the rows of `files`, in order; `-` is standard input."""

    def __init__(self, files: Sequence[Path], *, column: str) -> None:
        """`column` holds the text of files that have columns."""
        known = all(file.is_file() for file in files)
        self.total_bytes = sum(file.stat().st_size for file in files) if known else None
        """None where nobody can tell, as of a pipe."""
        self.read_bytes = 0
        self._files = files
        self._column = column

    def __iter__(self) -> Iterator[Row]:
        """Each row of each file.

        Raises:
            FileError: a file cannot be read, or is not what its name says.
        """
        for file in self._files:
            texts = _READERS[file.suffix.lower()](self, file)
            with naming(file, "read"):
                for number, text in enumerate(texts, start=1):
                    problem = text.why if isinstance(text, Unreadable) else None
                    read = "" if isinstance(text, Unreadable) else text
                    yield Row(str(file), number, read, problem, self.read_bytes)

    def _txt(self, file: Path) -> Iterator[Read]:
        for line in self._lines(file):
            yield line if isinstance(line, Unreadable) else _decoded(line.rstrip(b"\r\n"))

    def _csv(self, file: Path) -> Iterator[Read]:
        csv.field_size_limit(MAX_ROW_BYTES)
        reader = csv.reader(self._whole_lines(file), strict=True)
        try:
            index = self._index_in(next(reader, []), file)
            for fields in reader:
                field = fields[index] if index < len(fields) else ""
                yield _decoded(field.encode(errors="surrogateescape"))
        except csv.Error as error:
            raise FileError(f"{file} line {reader.line_num} is not csv: {error}") from None

    def _jsonl(self, file: Path) -> Iterator[Read]:
        """A first row that is wrong is a wrong file; a later one is a wrong row."""
        for number, line in enumerate(self._lines(file), start=1):
            text = self._text_of(line)
            if isinstance(text, Unreadable) and number == 1:
                raise FileError(f"{file} row 1: {text.why}")
            yield text

    def _text_of(self, line: bytes | Unreadable) -> Read:
        if isinstance(line, Unreadable) or not line.strip():
            return line if isinstance(line, Unreadable) else ""
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return Unreadable(f"not JSON: {error.msg}")
        if not isinstance(record, dict):
            return Unreadable(f"not a JSON object: {type(record).__name__}")
        if self._column not in record:
            return Unreadable(self._lacking(list(record)))
        text = record[self._column]
        if not isinstance(text, str | None):
            return Unreadable(f"{self._column!r} is not text: {type(text).__name__}")
        return text or ""

    def _parquet(self, file: Path) -> Iterator[Read]:
        arrow = pyarrow()
        bytes_before, rows = self.read_bytes, 0
        try:
            with arrow.parquet.ParquetFile(file) as table:
                field = table.schema_arrow.field(self._index_in(table.schema_arrow.names, file))
                if not _is_text(arrow, field.type):
                    raise FileError(f"{file}: {field.name!r} is not text: {field.type}")
                size, total = file.stat().st_size, table.metadata.num_rows
                for each in table.iter_batches(_SLICE_ROWS, columns=[field.name]):
                    for text in each.column(0).to_pylist():
                        rows += 1
                        self.read_bytes = bytes_before + rows * size // total
                        yield text or ""
        except (arrow.ArrowException, UnicodeDecodeError) as error:
            raise FileError(f"{file} cannot be read as parquet: {error}") from error

    def _whole_lines(self, file: Path) -> Iterator[str]:
        """Of a file that cannot be read on after a line that is too long."""
        for number, line in enumerate(self._lines(file), start=1):
            if isinstance(line, Unreadable):
                raise FileError(f"{file} line {number} is {line.why}")
            yield line.decode(errors="surrogateescape")

    def _lines(self, file: Path) -> Iterator[bytes | Unreadable]:
        """Lines with their ends, which only a line feed makes."""
        with nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb") as stream:
            first = True
            while line := stream.readline(MAX_ROW_BYTES + 1):
                self.read_bytes += len(line)
                if first and line.startswith(_UTF16):
                    raise FileError(f"{file} is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8")
                if len(line) > MAX_ROW_BYTES:
                    self._pass_over_line(stream, line)
                    yield Unreadable(f"longer than {MAX_ROW_BYTES} bytes")
                else:
                    yield line.removeprefix(codecs.BOM_UTF8) if first else line
                first = False

    def _pass_over_line(self, stream: BinaryIO, piece: bytes) -> None:
        """To the end of the line that `piece` is the beginning of."""
        while piece and not piece.endswith(b"\n"):
            piece = stream.readline(MAX_ROW_BYTES)
            self.read_bytes += len(piece)

    def _index_in(self, columns: Sequence[str], file: Path) -> int:
        if self._column not in columns:
            raise FileError(f"{file} has {self._lacking(columns)}")
        return columns.index(self._column)

    def _lacking(self, columns: Sequence[str]) -> str:
        there = ", ".join(columns) or "none"
        return f"no column {self._column!r}; it has: {there}. Name one with --column"


def _decoded(line: bytes) -> Read:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8 at byte {error.start + 1}: {error.reason}")


_READERS: dict[str, Callable[[Reader, Path], Iterator[Read]]] = {
    "": Reader._txt,  # standard input and pipes
    ".txt": Reader._txt,
    ".csv": Reader._csv,
    ".jsonl": Reader._jsonl,
    ".parquet": Reader._parquet,
}
KINDS = tuple(suffix for suffix in _READERS if suffix)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths` and, sorted, those of a known kind in the folders among them.

    Raises:
        FileError: there is no such path, its kind is unknown, or a folder holds nothing to read.
    """
    files = [file for path in paths for file in _files_at(path)]
    for file in files:
        if file != STDIN and not os.access(file, os.R_OK):
            raise FileError(f"{file} cannot be read: Permission denied")
    if any(file.suffix.lower() == ".parquet" for file in files):
        pyarrow()  # said before any work is done
    return files


def _files_at(path: Path) -> list[Path]:
    known = ", ".join(KINDS)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in KINDS)
        if not inside:
            raise FileError(f"{path} holds no file of a known kind: {known}")
        return inside
    if path != STDIN and not path.exists():
        raise FileError(f"{path} does not exist")
    if path.suffix.lower() not in _READERS:
        raise FileError(f"{path}: unknown kind {path.suffix!r}; known: {known}")
    return [path]


@contextmanager
def naming(path: Path, done: str) -> Iterator[None]:
    """Turn the system's refusals into a `FileError` that names the file."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # pyarrow's own are verbose
        raise FileError(f"{path} cannot be {done}: {reason}") from error


def pyarrow() -> Any:  # noqa: ANN401 - pyarrow is untyped
    """The package that reads and writes parquet.

    Raises:
        FileError: it is not installed.
    """
    try:
        import pyarrow  # optional, and 0.2 s for those who need it
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise FileError("parquet needs pyarrow: pip install 'lightmbert[parquet]'") from error
    return pyarrow


def _is_text(arrow: Any, kind: Any) -> bool:  # noqa: ANN401 - pyarrow is untyped
    types = arrow.types
    values = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_string(values) or types.is_large_string(values) or types.is_string_view(values)
    )
