"""A file of answers that is not finished yet, and can be gone on with after any end.

Beside `out.jsonl` there is a folder `out.jsonl.partial` until all rows are answered. It holds the
records so far and `progress.json`: what was asked, of which model, how many rows are answered,
and a digest of these rows. Whoever asks the same of the same rows goes on after them; the file
then made is the one that would have been made at one go.
"""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from app.bulk import PLACE_COLUMNS, Answered
from app.files import FileError, Row, naming
from app.records import Format, format_of, write_to_stdout

PROGRESS_FILE = "progress.json"
_NOTHING: dict[str, Any] = {"rows": 0, "kept": 0, "counts": {}, "digest": None}


class Unfinished:
    """The answers to some rows, on their way into `path`.

    Use as a context: at its end the file is there, or, after an error or an interrupt, what was
    answered is kept and `told` says so.
    """

    def __init__(self, path: Path, *, restart: bool) -> None:
        """Claims the place, before any work is done.

        Raises:
            FileError: it cannot be written, is of an unknown kind, or somebody else writes it.
        """
        self._path = path
        self._format_of = format_of(path)
        self._folder = path.with_name(f"{path.name}.partial")
        with naming(path, "written"):
            if path.is_dir():  # found by the last step otherwise, after hours of work
                raise FileError(f"{path} cannot be written: Is a directory")
            self._folder.mkdir(exist_ok=True)
        self._lock = os.open(self._folder, os.O_RDONLY)
        try:
            self._known = self._claim(restart=restart)
        except BaseException:
            os.close(self._lock)
            raise
        self._format: Format | None = None
        self._sound = True
        self._digest = blake2b()
        self.counts = Counter[str](self._known["counts"])
        """Rows by status, those of earlier runs included."""

    @property
    def answered_before(self) -> int:
        """Rows that earlier runs have answered."""
        return int(self._known["rows"])

    def remaining(
        self, rows: Iterable[Row], asked: dict[str, Any], columns: Sequence[str]
    ) -> Iterator[Row]:
        """The rows that are still to be answered.

        Args:
            rows: all of them, in their order.
            asked: what is asked about each row and of which model, as JSON values.
            columns: what an answer has, beside its place.

        Raises:
            FileError: something else was asked before, or of other rows.
        """
        self._asked = orjson.loads(orjson.dumps(asked))
        iterator = iter(rows)
        if self.answered_before:
            self._check_question()
            for row in islice(iterator, self.answered_before):
                self._digest.update(_bytes_of(row))
            if self._digest.hexdigest() != self._known["digest"]:
                raise self._other("answers other rows than the first of these")
        all_columns = (*PLACE_COLUMNS, *columns)
        try:
            self._format = self._format_of(self._folder, all_columns, self._known["kept"])
        except FileError as error:
            raise self._other(f"cannot be gone on with: {error}") from None
        self._columns = columns
        return iterator

    def write(self, answered: Sequence[Answered]) -> None:
        """Add the next rows.

        Raises:
            FileError: there is no room, say.
        """
        assert self._format is not None, "remaining comes first"
        for each in answered:
            self._digest.update(_bytes_of(each.row))
        self.counts.update(each.status for each in answered)
        self._sound = False  # until all of it is written: what is kept then are the rows before
        with naming(self._path, "written"):
            if self._format.write([each.record(self._columns) for each in answered]):
                self._save()
        self._sound = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with naming(self._path, "written"):
                if error is None:
                    self._finish()
                else:
                    self._leave()
        finally:
            os.close(self._lock)

    def _finish(self) -> None:
        assert self._format is not None, "without an error there were answers, if to no rows"
        self._format.finished().replace(self._path)
        shutil.rmtree(self._folder)

    def _leave(self) -> None:
        if self._format is not None:
            with closing(self._format):
                if self._sound and self.counts:
                    self._format.keep()
                    self._save()
        if not self._known["rows"]:
            shutil.rmtree(self._folder)

    @property
    def told(self) -> str | None:
        """What is kept after an end that was not the end; None where that is nothing."""
        rows = self._known["rows"]
        if not rows or not self._folder.exists():
            return None
        kept = f"{rows:,} row{'' if rows == 1 else 's'} in {self._folder}"
        return f"kept {kept}; the same command goes on from there"

    def _claim(self, *, restart: bool) -> dict[str, Any]:
        """What earlier runs have left, now that nobody else writes here."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(f"{self._path} is being written by another process") from None
        if restart:
            for file in self._folder.iterdir():
                file.unlink()
        try:
            known: dict[str, Any] = orjson.loads((self._folder / PROGRESS_FILE).read_bytes())
        except FileNotFoundError:
            return _NOTHING
        except orjson.JSONDecodeError as error:
            raise self._other(f"holds no progress that can be read: {error}") from None
        return known

    def _save(self) -> None:
        assert self._format is not None, "something was written"
        self._known = {
            "rows": self.counts.total(),
            "kept": self._format.kept,
            "counts": dict(self.counts),
            "digest": self._digest.hexdigest(),
            "asked": self._asked,
        }
        new = self._folder / f"{PROGRESS_FILE}.new"
        new.write_bytes(orjson.dumps(self._known))
        new.replace(self._folder / PROGRESS_FILE)

    def _check_question(self) -> None:
        before = self._known["asked"]
        for name in sorted({*before, *self._asked}):
            was, now = before.get(name), self._asked.get(name)
            if was != now:
                raise self._other(f"was begun with {name} {was!r}, and now it is {now!r}")

    def _other(self, how: str) -> FileError:
        return FileError(f"{self._folder} {how}; to begin anew, add --restart")


class Stream:
    """The same for standard output, where nothing can be kept."""

    answered_before = 0
    told = None

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def remaining(
        self, rows: Iterable[Row], asked: dict[str, Any], columns: Sequence[str]
    ) -> Iterator[Row]:
        self._columns = columns
        return iter(rows)

    def write(self, answered: Sequence[Answered]) -> None:
        self.counts.update(each.status for each in answered)
        write_to_stdout([each.record(self._columns) for each in answered])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None: ...


def _bytes_of(row: Row) -> bytes:
    return f"{row.file}\0{row.number}\0{row.problem or ''}\0{row.text}\0".encode()
