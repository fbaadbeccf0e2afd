"""Records into files, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import records
from app.files import FileError
from app.records import Record, open_output

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


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_jsonl_holds_what_was_written(tmp_path: Path) -> None:
    with open_output(tmp_path / "a.jsonl", columns=COLUMNS) as write:
        write(RECORDS)
        write(RECORDS)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == AS_JSON * 2


def test_parquet_holds_what_was_written_in_narrow_types(tmp_path: Path) -> None:
    with open_output(tmp_path / "a.parquet", columns=COLUMNS) as write:
        write(RECORDS)
        write(RECORDS)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == AS_JSON * 2
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert table.schema.field("score").type == pa.float32()


def test_parquet_of_nothing_but_nulls_has_its_types(tmp_path: Path) -> None:
    with open_output(tmp_path / "a.parquet", columns=COLUMNS) as write:
        write(RECORDS[1:])
    assert pq.read_schema(tmp_path / "a.parquet").field("embedding").type == pa.list_(pa.float32())


def test_parquet_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_GROUP_ROWS", 4)
    with open_output(tmp_path / "a.parquet", columns=COLUMNS) as write:
        for _ in range(5):
            write(RECORDS)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    name: str, stop: type[BaseException], tmp_path: Path
) -> None:
    def write_some_and_stop() -> None:
        with open_output(tmp_path / name, columns=COLUMNS) as write:
            write(RECORDS)
            raise stop

    with pytest.raises(stop):
        write_some_and_stop()
    assert names_in(tmp_path) == set()
    (tmp_path / name).write_text("before")
    with pytest.raises(stop):
        write_some_and_stop()
    assert names_in(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "before"


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_appears_only_when_it_is_whole(name: str, tmp_path: Path) -> None:
    with open_output(tmp_path / name, columns=COLUMNS) as write:
        write(RECORDS)
        assert name not in names_in(tmp_path)
    assert names_in(tmp_path) == {name}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", "unknown kind '.csv'; written: .jsonl, .parquet"),
        ("gone/a.jsonl", "gone/a.jsonl cannot be written: No such file or directory"),
        ("gone/a.parquet", "gone/a.parquet cannot be written: No such file or directory"),
        ("folder.jsonl", "folder.jsonl cannot be written: Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with (
        pytest.raises(FileError, match=message),
        open_output(tmp_path / name, columns=COLUMNS),
    ):
        pass
    assert names_in(tmp_path) == {"folder.jsonl"}


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_folder_in_the_way_is_found_before_any_work(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    worked = False
    with (
        pytest.raises(FileError, match="Is a directory"),
        open_output(tmp_path / name, columns=COLUMNS),
    ):
        worked = True
    assert not worked
    assert [each.name for each in tmp_path.iterdir()] == [name]
