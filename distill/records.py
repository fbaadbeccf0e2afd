"""Records of a run: one JSON object per line, appended, readable while the run goes on."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import orjson

RECORDS_FILE = "records.jsonl"


class Records:
    """Appends to `folder/records.jsonl`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / RECORDS_FILE).open("ab")

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
