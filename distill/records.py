"""Records of a run: one JSON object per line, readable while the run goes on.

The same numbers go to TensorBoard where a recipe asks for it.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import orjson

from app.errors import LightMBERTError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RECORDS_FILE = "records.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class RecordsError(LightMBERTError):
    """Records cannot be written the way a recipe asks for."""

    code = "bad_records"


class Records:
    """Writes `folder/records.jsonl`, going on after the steps already done.

    A killed run has recorded steps past its last checkpoint. They will be done again, so their
    records are dropped, and with them a line that was cut short.
    """

    def __init__(self, folder: Path, *, steps_done: int, tensorboard: bool = False) -> None:
        """Open the records of a run.

        Raises:
            RecordsError: TensorBoard is asked for and not installed.
        """
        self._summaries = _summaries(folder, steps_done) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECORDS_FILE
        kept = [line for line in _lines(path) if _is_of(line, steps_done)]
        partial = path.with_suffix(".partial")
        partial.write_bytes(b"".join(kept))
        partial.replace(path)
        self.former: list[dict[str, float]] = [orjson.loads(line) for line in kept]
        """Records of the steps already done."""
        self._file = path.open("ab", buffering=0)  # readable at once, and nothing left for the end

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Add one record.

        Raises:
            RecordsError: the file cannot be written, such as when the disk is full.
        """
        try:
            self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise RecordsError(f"{self._file.name} cannot be written: {error}") from error
        if self._summaries is not None:
            for name, number in record.items():
                if name != "step":
                    self._summaries.add_scalar(name, number, int(record["step"]))

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._summaries is not None:
            self._summaries.close()


def read_records(folder: Path) -> list[dict[str, float]]:
    """All whole records of a run folder, empty where there are none."""
    lines = _lines(folder / RECORDS_FILE)
    return [orjson.loads(line) for line in lines if line.endswith(b"\n")]


def _summaries(folder: Path, steps_done: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise RecordsError(
            f"tensorboard = true needs {error.name}: pip install 'lightmbert[tensorboard]'"
        ) from error
    # what a killed run wrote past its checkpoint is hidden from the curves
    return SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=steps_done + 1)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _is_of(line: bytes, steps_done: int) -> bool:
    """Whether the line is a whole record of one of the steps done."""
    return line.endswith(b"\n") and int(orjson.loads(line)["step"]) <= steps_done
