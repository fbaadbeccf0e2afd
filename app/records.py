"""Records into files: jsonl and parquet, written so that what is written can be gone on with.

A format writes into a folder of its own. `write` says whether all records so far would survive
the process; `finished` makes one file of them, the same whether they were written at one go.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from app.files import FileError, pyarrow

Record = dict[str, Any]
"""One row of output by column; numpy's scalars and vectors count as JSON values."""

_GROUP_ROWS = 8_192
"""Parquet is read quickly in groups of this order, and kept when one is full."""


class Format(Protocol):
    """How records lie in a folder until they are one file.

    It is made with what `kept` was, to go on from there, and with 0 to begin.
    """

    @property
    def kept(self) -> int:
        """How far what would survive the process reaches, in the format's own measure."""

    def write(self, records: Sequence[Record]) -> bool:
        """Write some more; true where all records so far are kept."""

    def keep(self) -> None:
        """Keep all records so far."""

    def finished(self) -> Path:
        """The one file, inside the folder."""

    def close(self) -> None:
        """Write nothing more."""


class Jsonl:
    """A file that grows; `kept` are its bytes."""

    def __init__(self, folder: Path, columns: Sequence[str], kept: int) -> None:
        self._path = folder / "rows.jsonl"
        if kept and (not self._path.exists() or self._path.stat().st_size < kept):
            raise FileError(f"{self._path} holds less than it did")
        self._file = self._path.open("r+b" if kept else "wb", buffering=0)
        self._file.truncate(kept)
        self._file.seek(kept)

    @property
    def kept(self) -> int:
        return self._file.tell()

    def write(self, records: Sequence[Record]) -> bool:
        rest = memoryview(json_lines(records))
        while rest:
            rest = rest[self._file.write(rest) :]
        return True

    def keep(self) -> None: ...

    def finished(self) -> Path:
        self._file.close()
        return self._path

    def close(self) -> None:
        self._file.close()


class Parquet:
    """A file for each group of rows, because one without its end is lost; `kept` are such files."""

    def __init__(self, folder: Path, columns: Sequence[str], kept: int) -> None:
        self._arrow = pyarrow()
        types = _arrow_types(self._arrow)
        self._schema = self._arrow.schema([(column, types[column]) for column in columns])
        self._folder = folder
        self._group: list[Any] = []
        self.kept = kept
        if not all(self._part(number).exists() for number in range(kept)):
            raise FileError(f"{folder} holds less than it did")

    def write(self, records: Sequence[Record]) -> bool:
        self._group.append(self._arrow.RecordBatch.from_pylist(records, schema=self._schema))
        if sum(batch.num_rows for batch in self._group) < _GROUP_ROWS:
            return False
        self.keep()
        return True

    def keep(self) -> None:
        if self._group:
            group = self._arrow.Table.from_batches(self._group)
            self._arrow.parquet.write_table(group, self._part(self.kept))
            self._group = []
            self.kept += 1

    def finished(self) -> Path:
        """Groups of equal size, however many rows the parts have."""
        self.keep()
        path = self._folder / "whole.parquet"
        waiting = self._schema.empty_table()
        with self._arrow.parquet.ParquetWriter(path, self._schema) as writer:
            for number in range(self.kept):
                part = self._arrow.parquet.read_table(self._part(number))
                waiting = self._arrow.concat_tables([waiting, part])
                while waiting.num_rows >= _GROUP_ROWS:
                    writer.write_table(waiting.slice(0, _GROUP_ROWS))
                    waiting = waiting.slice(_GROUP_ROWS)
            if waiting.num_rows:
                writer.write_table(waiting)
        return path

    def close(self) -> None: ...

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:06}.parquet"


FORMATS: dict[str, Callable[[Path, Sequence[str], int], Format]] = {
    ".jsonl": Jsonl,
    ".parquet": Parquet,
}


def format_of(path: Path) -> Callable[[Path, Sequence[str], int], Format]:
    """By the name's end.

    Raises:
        FileError: nothing of that kind is written here.
    """
    if path.suffix.lower() not in FORMATS:
        raise FileError(f"{path}: unknown kind {path.suffix!r}; written: {', '.join(FORMATS)}")
    if path.suffix.lower() == ".parquet":
        pyarrow()  # said before any work is done
    return FORMATS[path.suffix.lower()]


def json_lines(records: Sequence[Record]) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(record, option=options) for record in records)


def write_to_stdout(records: Sequence[Record]) -> None:
    sys.stdout.buffer.write(json_lines(records))
    sys.stdout.buffer.flush()  # the next program in the pipe waits for it


def _arrow_types(arrow: Any) -> dict[str, Any]:  # noqa: ANN401 - pyarrow is untyped
    """The parquet type of each column there is."""
    score = arrow.struct([("label", arrow.string()), ("score", arrow.float32())])
    return {
        "file": arrow.string(),
        "row": arrow.int64(),
        "status": arrow.string(),
        "label": arrow.string(),
        "score": arrow.float32(),
        "scores": arrow.list_(score),
        "embedding": arrow.list_(arrow.float32()),
    }
