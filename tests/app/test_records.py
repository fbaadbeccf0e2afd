"""Records into files: what is in them, and that going on gives what one go gives."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import records
from app.files import FileError
from app.records import FORMATS, Record, format_of

COLUMNS = ("row", "label", "score", "scores", "embedding")
RECORDS: list[Record] = [
    {
        "row": 1,
        "label": "animals",
        "score": np.float32(0.75),
        "scores": [{"label": "animals", "score": np.float32(0.75)}],
        "embedding": np.array([0.5, -1], dtype=np.float32),
    },
    {"row": 2, "label": None, "score": None, "scores": None, "embedding": None},
]
AS_JSON = [
    {
        "row": 1,
        "label": "animals",
        "score": 0.75,
        "scores": [{"label": "animals", "score": 0.75}],
        "embedding": [0.5, -1],
    },
    RECORDS[1],
]


def written(folder: Path, kind: str, *batches: Sequence[Record]) -> Path:
    folder.mkdir()
    output = FORMATS[kind](folder, COLUMNS, 0)
    for batch in batches:
        output.write(batch)
    return output.finished()


def test_jsonl_holds_what_was_written(tmp_path: Path) -> None:
    lines = written(tmp_path / "a", ".jsonl", RECORDS, RECORDS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == AS_JSON * 2


def test_parquet_holds_what_was_written_in_narrow_types(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "a", ".parquet", RECORDS, RECORDS))
    assert table.to_pylist() == AS_JSON * 2
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert table.schema.field("score").type == pa.float32()


def test_parquet_of_nothing_but_nulls_has_its_types(tmp_path: Path) -> None:
    schema = pq.read_schema(written(tmp_path / "a", ".parquet", RECORDS[1:]))
    assert schema.field("embedding").type == pa.list_(pa.float32())


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_GROUP_ROWS", 4)
    metadata = pq.read_metadata(written(tmp_path / "a", ".parquet", *[RECORDS] * 5))
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keeps", [(1,), (3,), (1, 2, 4)])
def test_what_was_gone_on_with_is_what_one_go_gives(
    kind: str, keeps: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_GROUP_ROWS", 4)
    (folder := tmp_path / "parts").mkdir()
    output = FORMATS[kind](folder, COLUMNS, 0)
    for number in range(5):
        output.write(RECORDS)
        if number in keeps:
            output.keep()
            kept = output.kept
            output.write(RECORDS)  # and this is lost
            output.close()
            output = FORMATS[kind](folder, COLUMNS, kept)
    at_one_go = written(tmp_path / "whole", kind, *[RECORDS] * 5)
    assert output.finished().read_bytes() == at_one_go.read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_not_there_any_more_is_not_gone_on_with(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="holds less than it did"):
        FORMATS[kind](tmp_path, COLUMNS, 1)


def test_a_kind_that_is_not_written_is_named() -> None:
    with pytest.raises(FileError, match=r"unknown kind '.csv'; written: .jsonl, .parquet"):
        format_of(Path("a.csv"))
