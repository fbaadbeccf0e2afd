"""Rows out of files of every kind."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import files
from app.files import KINDS, FileError, Reader, Row, find_files

TEXTS = ["hund", "", 'a "quoted", text', "привіт", "  ", "no line end"]


def write_txt(path: Path, texts: Sequence[str]) -> None:
    path.write_bytes("\n".join(texts).encode())


def write_csv(path: Path, texts: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])


def write_jsonl(path: Path, texts: Sequence[str]) -> None:
    path.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(texts)))


def write_parquet(path: Path, texts: Sequence[str]) -> None:
    columns = {"id": range(len(texts)), "text": pa.array(texts, type=pa.string())}
    pq.write_table(pa.table(columns), path)


WRITERS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    ".txt": write_txt,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}


def read(*paths: Path, column: str = "text") -> list[Row]:
    return list(Reader(find_files(paths), column=column))


def texts_of(*paths: Path, column: str = "text") -> list[str]:
    return [row.text for row in read(*paths, column=column)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_kind_is_tested() -> None:
    assert set(WRITERS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_in_order_with_their_place_and_blank_ones_count(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{kind}"
    WRITERS[kind](path, TEXTS)
    assert read(path) == [Row(str(path), i, text) for i, text in enumerate(TEXTS, start=1)]


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text()))
def test_whatever_was_written_is_read(
    kind: str, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{kind}"
    WRITERS[kind](path, texts)
    assert texts_of(path) == texts


@pytest.mark.parametrize("kind", KINDS)
def test_all_bytes_are_counted_when_all_is_read(kind: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        WRITERS[kind](tmp_path / f"{name}{kind}", TEXTS)
    reader = Reader(find_files([tmp_path]), column="text")
    assert len(list(reader)) == 2 * len(TEXTS)
    assert reader.read_bytes == reader.total_bytes


@pytest.mark.parametrize("kind", [".txt", ".csv", ".jsonl"])
def test_neither_a_mark_at_the_start_nor_windows_line_ends_are_text(
    kind: str, tmp_path: Path
) -> None:
    plain, windows = tmp_path / f"plain{kind}", tmp_path / f"windows{kind}"
    WRITERS[kind](plain, ["hund", "katt"])
    lines = plain.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n")
    windows.write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n") + b"\r\n")
    assert texts_of(windows) == ["hund", "katt"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\u2028still one\x0cstill\ntwo\n")
    assert texts_of(path) == ["one\u2028still one\x0cstill", "two"]


def test_short_rows_and_nulls_are_blank(tmp_path: Path) -> None:
    short = write(tmp_path / "a.csv", "id,text\n1\n\n3,hund\n")
    null = write(tmp_path / "b.jsonl", '{"text": null}\n\n{"text": "katt"}')
    pq.write_table(pa.table({"text": ["tax", None]}), tmp_path / "c.parquet")
    assert texts_of(short) == ["", "", "hund"]
    assert texts_of(null) == ["", "", "katt"]
    assert texts_of(tmp_path / "c.parquet") == ["tax", ""]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_may_be_stored_in_any_way(kind: pa.DataType, tmp_path: Path) -> None:
    column = pa.array(["hund", "katt", "hund"]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["hund", "katt", "hund"]


def test_a_folder_gives_its_files_sorted_and_passes_over_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["a.CSV", *(f"b{i}.txt" for i in range(9)), "in/c.jsonl"]
    for name in ("README.md", "z", *reversed(names)):
        (tmp_path / name).touch()
    assert [file.relative_to(tmp_path).as_posix() for file in find_files([tmp_path])] == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,body\n1,x\n", "a.csv has no column 'text'; it has: id, body"),
        ("a.csv", "", "a.csv has no column 'text'; it has: none"),
        ("a.csv", 'id,text\n1,"x\n', "a.csv line 2 is not csv: unexpected end of data"),
        ("a.txt", "katt".encode("utf-16"), "a.txt is UTF-16; make it UTF-8: iconv"),
        ("a.jsonl", '{"body": "y"}', "a.jsonl row 1: no column 'text'; it has: body. Name one"),
        ("a.jsonl", '{"text": ', "a.jsonl row 1: not JSON"),
        ("a.jsonl", '["x"]', "a.jsonl row 1: not a JSON object: list"),
        ("a.jsonl", '{"text": 7}', "a.jsonl row 1: 'text' is not text: int"),
        ("a.parquet", "PAR?", "a.parquet cannot be read as parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_with_the_place(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(FileError) as caught:
        read(path)
    assert message in str(caught.value)


def test_parquet_columns_are_checked_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), path)
    with pytest.raises(FileError, match="no column 'text'; it has: id, body"):
        read(path)
    with pytest.raises(FileError, match="'id' is not text: int64"):
        read(path, column="id")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.txt", "gone.txt does not exist"),
        ("a.md", r"unknown kind '.md'; known: .txt, .csv, .jsonl, .parquet"),
        ("empty", "empty holds no file of a known kind"),
    ],
)
def test_a_path_with_nothing_to_read_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=message):
        find_files([tmp_path / name])


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("a.txt", b"fine\nfa\xff\nfine", [None, "not UTF-8 at byte 3: invalid start byte", None]),
        ("a.csv", b"id,text\n1,fa\xff\n\xfe,ok", ["not UTF-8 at byte 3: invalid start byte", None]),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n{"text": "b"}', [None, "not JSON: ", None]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', [None, "not JSON: "]),
        ("a.jsonl", b'{"text": "a"}\n[1]', [None, "not a JSON object: list"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": 7}', [None, "'text' is not text: int"]),
        ("a.jsonl", b'{"text": "a"}\n{"b": 7}', [None, "no column 'text'; it has: b. Name one"]),
    ],
)
def test_a_row_that_cannot_be_read_is_a_row_that_says_why(
    name: str, content: bytes, problems: list[str | None], tmp_path: Path
) -> None:
    (path := tmp_path / name).write_bytes(content)
    rows = read(path)
    assert [row.number for row in rows] == list(range(1, len(problems) + 1))
    for row, problem in zip(rows, problems, strict=True):
        assert (row.problem or "").startswith(problem or "")
        assert bool(row.text) == (problem is None)


def test_a_line_without_end_is_passed_over_rather_than_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 100)
    fits = write(tmp_path / "fits.txt", "x" * 99 + "\n" + "y" * 100)
    assert [len(text) for text in texts_of(fits)] == [99, 100]
    long = write(tmp_path / "long.txt", "fine\n" + "x" * 1_001 + "\nfine\n" + "y" * 200)
    problem = "longer than 100 bytes"
    assert [(row.text, row.problem) for row in read(long)] == [*(("fine", None), ("", problem)) * 2]
    assert read(long)[-1].read_bytes == long.stat().st_size
    jsonl = write(tmp_path / "long.jsonl", '{"text": "fine"}\n{"text": "' + "x" * 200 + '"}\n')
    assert [row.problem for row in read(jsonl)] == [None, problem]


def test_a_csv_file_is_not_read_on_after_what_hides_where_rows_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 100)
    quoted = write(tmp_path / "quoted.csv", 'text\n"' + "x\n" * 101)
    with pytest.raises(FileError, match="field larger than field limit"):
        read(quoted)
    endless = write(tmp_path / "endless.csv", "text\n" + "x" * 101)
    with pytest.raises(FileError, match=r"endless.csv line 2 is longer than 100 bytes"):
        read(endless)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "hund").chmod(0)
    with pytest.raises(FileError, match=r"a.txt cannot be read: Permission denied"):
        find_files([tmp_path])


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/proc/self/mem")  # whose first page nobody can read
    with pytest.raises(FileError, match=r"a.txt cannot be read: Input/output error"):
        read(tmp_path / "a.txt")


def test_standard_input_is_a_text_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("hund\nпривіт".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert read(Path("-")) == [Row("-", 1, "hund"), Row("-", 2, "привіт")]
