"""Records of a run: one JSON object per line, readable while the run goes on."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import orjson

RECORDS_FILE = "records.jsonl"


class Records:
    """Writes `folder/records.jsonl`, going on after the steps already done.

    A killed run has recorded steps past its last checkpoint. They will be done again, so their
    records are dropped, and with them a line that was cut short.
    """

    def __init__(self, folder: Path, *, steps_done: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECORDS_FILE
        kept = [line for line in _lines(path) if _is_of(line, steps_done)]
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(kept))
        partial.replace(path)
        self._file = path.open("ab")

    def write(self, record: Mapping[str, float | int | str]) -> None:
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _is_of(line: bytes, steps_done: int) -> bool:
    """Whether the line is a whole record of one of the steps done."""
    return line.endswith(b"\n") and int(orjson.loads(line)["step"]) <= steps_done
