"""Records into files: jsonl to a file or standard output, and parquet.

A file appears under its name when all of it is written, and otherwise not at all.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson

from app.files import FileError, naming, pyarrow

Record = dict[str, Any]
"""One row of output by column; numpy's scalars and vectors count as JSON values."""
Write = Callable[[Sequence[Record]], None]

_GROUP_ROWS = 8_192
"""Parquet is read quickly in groups of this order, and written when one is full."""


@contextmanager
def open_output(path: Path | None, *, columns: Sequence[str]) -> Iterator[Write]:
    """A function that writes records of these columns; without a path, to standard output.

    Raises:
        FileError: the path cannot be written, or is of an unknown kind.
    """
    if path is None:
        yield _write_to_stdout
        return
    if path.suffix.lower() not in _OUTPUTS:
        raise FileError(f"{path}: unknown kind {path.suffix!r}; written: {', '.join(_OUTPUTS)}")
    if path.is_dir():  # found by the last step otherwise, after hours of work
        raise FileError(f"{path} cannot be written: Is a directory")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with naming(path, "written"):
            output = _OUTPUTS[path.suffix.lower()](unfinished, columns)

        def write(records: Sequence[Record]) -> None:
            with naming(path, "written"):
                output.write(records)

        try:
            yield write
        finally:
            with naming(path, "written"):
                output.close()
        with naming(path, "written"):
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class _Output(Protocol):
    def write(self, records: Sequence[Record]) -> None: ...

    def close(self) -> None: ...


class _Jsonl:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("wb")

    def write(self, records: Sequence[Record]) -> None:
        self._file.write(_json_lines(records))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._arrow = pyarrow()
        types = _arrow_types(self._arrow)
        self._schema = self._arrow.schema([(column, types[column]) for column in columns])
        self._writer = self._arrow.parquet.ParquetWriter(path, self._schema)
        self._group: list[Any] = []

    def write(self, records: Sequence[Record]) -> None:
        self._group.append(self._arrow.RecordBatch.from_pylist(records, schema=self._schema))
        if sum(batch.num_rows for batch in self._group) >= _GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        if self._group:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.Table.from_batches(self._group))
        self._group = []


_OUTPUTS: dict[str, Callable[[Path, Sequence[str]], _Output]] = {
    ".jsonl": _Jsonl,
    ".parquet": _Parquet,
}


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


def _write_to_stdout(records: Sequence[Record]) -> None:
    sys.stdout.buffer.write(_json_lines(records))
    sys.stdout.buffer.flush()  # the next program in the pipe waits for it


def _json_lines(records: Sequence[Record]) -> bytes:
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(record, option=options) for record in records)
