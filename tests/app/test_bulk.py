"""Rows through the command line's engine: their order, their fate, and how many at a time."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import lightmbert
from serving import GatedEngine, serving
from typer.testing import Result

from app.bulk import MAX_CHUNK_ROWS, MAX_IN_FLIGHT, Embed, answer_all
from app.engine import Engine
from app.files import Reader, Row
from app.metrics import Metrics
from app.progress import Pace, Progress
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
UNIT = {"hund": [1, 0, 0, 0], "katt": [0, 1, 0, 0], "tax": [0, 0, 1, 0]}
TOO_LONG = "tax tax tax katt katt katt katt"  # nine tokens, and eight are read


@pytest.fixture(autouse=True)
def _toy(toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_MODEL_DIR", str(toy_model_dir))


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_standard_input_is_classified_line_by_line() -> None:
    result = lightmbert("classify", "--task", "topic", stdin="katt\ntax\n")
    assert result.exit_code == 0, result.output
    first, second = records(result)
    assert (first["file"], first["row"], first["status"]) == ("-", 1, "ok")
    assert (first["label"], second["label"]) == ("animals", "money")
    assert [each["label"] for each in second["scores"]] == ["money", "animals"]
    assert second["score"] == second["scores"][0]["score"]


async def test_the_command_line_and_the_service_agree(toy_model_dir: Path) -> None:
    texts = ["hund katt", "tax", "tax hund"]
    result = lightmbert("classify", "--task", "topic", "--top-k", 1, stdin="\n".join(texts))
    async with serving(toy_model_dir) as http:
        served = (await http.classify(texts, task="topic", top_k=1)).json()["results"]
    answers = [{key: each[key] for key in ("label", "score", "scores")} for each in records(result)]
    assert answers == served


def test_files_of_several_kinds_are_embedded_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.csv").write_text("id,body\n1,katt\n")
    (tmp_path / "in" / "a.jsonl").write_text('{"body": "tax"}\n{"body": "hund"}\n')
    pq.write_table(pa.table({"body": ["hund"]}), tmp_path / "z.parquet")
    paths = [tmp_path / "z.parquet", tmp_path / "in"]
    result = lightmbert("embed", *paths, "--column", "body")
    found = [(Path(each["file"]).name, each["row"], each["embedding"]) for each in records(result)]
    assert found == [
        ("z.parquet", 1, UNIT["hund"]),
        ("a.jsonl", 1, UNIT["tax"]),
        ("a.jsonl", 2, UNIT["hund"]),
        ("b.csv", 1, UNIT["katt"]),
    ]


def test_order_is_kept_over_many_chunks(tmp_path: Path) -> None:
    count = MAX_CHUNK_ROWS * (MAX_IN_FLIGHT + 2) + 7
    words = [list(UNIT)[i * i % 3] for i in range(count)]
    result = lightmbert("embed", write_lines(tmp_path / "a.txt", words))
    found = [(each["row"], each["embedding"]) for each in records(result)]
    assert found == [(i, UNIT[word]) for i, word in enumerate(words, start=1)]


def test_a_blank_row_keeps_its_place_and_is_named() -> None:
    result = lightmbert("embed", stdin="\nhund\n \n")
    assert [each["status"] for each in records(result)] == ["blank", "ok", "blank"]
    assert [each["embedding"] for each in records(result)] == [None, UNIT["hund"], None]
    assert result.stderr.splitlines() == [
        "- row 1 is blank",
        "- row 3 is blank",
        "3 rows: 2 blank, 1 ok",
    ]
    assert result.exit_code == 0


def test_a_text_that_is_too_long_is_refused_and_its_neighbours_are_not() -> None:
    result = lightmbert("classify", "--task", "topic", stdin=f"hund\n{TOO_LONG}\ntax\n")
    assert result.exit_code == 0
    assert [each["label"] for each in records(result)] == ["animals", None, "money"]
    refused = records(result)[1]
    assert (refused["status"], refused["score"], refused["scores"]) == ("too_long", None, None)
    assert "- row 2 is too long: 31 characters, more than the 8 tokens" in result.stderr
    assert "3 rows: 2 ok, 1 too_long" in result.stderr


def test_a_text_that_is_too_long_is_cut_when_asked_and_that_is_told() -> None:
    result = lightmbert("embed", "--truncate", stdin=f"{TOO_LONG}\ntax tax tax katt katt katt\n")
    cut, whole = records(result)
    assert (cut["status"], whole["status"]) == ("truncated", "ok")
    assert cut["embedding"] == whole["embedding"]
    assert "2 rows: 1 truncated, 1 ok" in result.stderr
    assert result.exit_code == 0


def test_trouble_is_named_twenty_times_and_counted_to_the_end() -> None:
    result = lightmbert("embed", stdin="\n" * 25)
    *named, total = result.stderr.splitlines()
    assert named[-1] == "- row 20 is blank; further ones are only counted"
    assert (len(named), total) == (20, "25 rows: 25 blank")


def test_a_person_who_watches_sees_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if standard error were a terminal
    path = write_lines(tmp_path / "a.txt", ["hund", "", "katt"])
    result = lightmbert("embed", path, "--output", tmp_path / "out.jsonl")
    assert "100%" in result.stderr
    assert "3 rows, " in result.stderr
    assert f"{path} row 2 is blank\n" in result.stderr


def test_parquet_in_and_parquet_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["hund", None, "tax"]}), tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    result = lightmbert("embed", tmp_path / "in.parquet", "--output", output, "--dimensions", 3)
    assert (result.exit_code, result.stdout) == (0, "")
    table = pq.read_table(output)
    assert table.column_names == ["file", "row", "status", "embedding"]
    assert table["embedding"].to_pylist() == [UNIT["hund"][:3], None, UNIT["tax"][:3]]
    assert table["row"].to_pylist() == [1, 2, 3]


def test_no_rows_are_an_empty_answer(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    assert lightmbert("classify", "--task", "topic", "--output", output).exit_code == 0
    assert pq.read_table(output).num_rows == 0


@pytest.mark.parametrize("limit", ["MAX_QUEUE_TOKENS", "MAX_QUEUE_BYTES", "MAX_TEXTS_PER_REQUEST"])
def test_small_limits_of_the_service_only_make_small_chunks(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LIGHTMBERT_{limit}", "9")
    path = write_lines(tmp_path / "a.txt", ["hund katt hund katt tax tax"] * 50)
    result = lightmbert("embed", path)
    assert result.exit_code == 0, result.stderr
    assert len(records(result)) == 50


def test_rows_are_never_read_far_ahead_of_their_answers(toy_model_dir: Path) -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        while True:
            read += 1
            yield Row("endless", read, "hund")

    engine = Engine.load(Settings(model_dir=toy_model_dir), Metrics())
    with closing(answer_all(rows(), Embed(None), engine, truncate=False)) as answers:
        for done in range(1, 9):
            assert len(next(answers)) == MAX_CHUNK_ROWS
            assert read <= (done + MAX_IN_FLIGHT) * MAX_CHUNK_ROWS


def test_closing_waits_for_what_runs_and_drops_what_is_queued(toy_model_dir: Path) -> None:
    metrics = Metrics()
    one = {"runners": 1, "max_texts_per_request": 1, "max_batch_tokens": 1}  # text a batch
    settings = Settings(model_dir=toy_model_dir, **one)
    engine = GatedEngine.load(settings, metrics)
    words = ("hund", "katt", "tax", "dog")  # no text twice: such would run once
    texts = (*words, *(f"hund {word}" for word in words))
    rows = [Row("-", number, text) for number, text in enumerate(texts, start=1)]
    answers = answer_all(rows, Embed(None), engine, truncate=False)
    engine.session.gate.release()
    next(answers)
    closing = threading.Thread(target=answers.close)
    closing.start()
    queued = MAX_IN_FLIGHT - 2  # one is answered and one runs
    dropped = "lightmbert_dropped_texts_total"
    while metrics.registry.get_sample_value(dropped, {"reason": "gone"}) != queued:
        assert closing.is_alive()
    engine.session.gate.release()
    closing.join(10)
    assert not closing.is_alive()


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["classify"], "hund", "task is required; this model's tasks: same, topic"),
        (["classify", "--task", "mood"], "hund", "task 'mood' is unknown; this model's tasks"),
        (["classify", "--task", "same"], "hund", "task 'same' reads pairs"),
        (["embed", "--dimensions", "5"], "hund", "dimensions is 5; this model gives 1 to 4"),
        (
            ["embed", "--device", "tpu"],
            "hund",
            "device: Input should be 'cpu' or 'cuda', not 'tpu'",
        ),
        (["embed"], b"\xff\xfeh\0", "- is UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8"),
        (["embed", "--strict"], b"\nhund", "- row 1 is blank; stopped, as --strict asks"),
        (["embed", "--strict"], b"\xff", "- row 1 is unreadable: not UTF-8 at byte 1"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_leaves_no_file(
    arguments: list[str], stdin: str | bytes, message: str, tmp_path: Path
) -> None:
    result = lightmbert(*arguments, "--output", tmp_path / "out.jsonl", stdin=stdin)
    assert result.exit_code == (2 if "--device" in arguments else 1)
    [line] = result.stderr.splitlines()
    assert line.startswith(f"lightmbert: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_breaks_off_leaves_no_output_but_what_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    lines = ["text", *["hund"] * (MAX_CHUNK_ROWS * (MAX_IN_FLIGHT + 1)), '"']
    path = write_lines(tmp_path / "in.csv", lines)
    result = lightmbert("embed", path, "--output", tmp_path / "out.parquet")
    assert result.exit_code == 1
    assert f"lightmbert: {path} line {len(lines)} is not csv: unexpected end" in result.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"in.csv", "out.parquet.partial"}
    write_lines(path, lines[:-1])
    assert lightmbert("embed", path, "--output", tmp_path / "out.parquet").exit_code == 0
    assert {each.name for each in tmp_path.iterdir()} == {"in.csv", "out.parquet"}
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == len(lines) - 2


def test_a_row_that_cannot_be_read_has_its_place_and_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhund\r\nca\xf1\xf3n\r\nkatt\r\n")
    result = lightmbert("embed", path)
    assert [each["status"] for each in records(result)] == ["ok", "unreadable", "ok"]
    assert [each["embedding"] for each in records(result)] == [UNIT["hund"], None, UNIT["katt"]]
    assert f"{path} row 2 is unreadable: not UTF-8 at byte 3" in result.stderr
    assert result.exit_code == 0


def test_what_was_done_is_told_to_machines(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["hund", "", TOO_LONG])
    result = lightmbert("embed", path, "--output", tmp_path / "out.jsonl", "--json")
    told = json.loads(result.stdout)
    assert {key: told[key] for key in ("rows", "ok", "blank", "too_long", "unreadable")} == {
        "rows": 3, "ok": 1, "blank": 1, "too_long": 1, "unreadable": 0,
    }  # fmt: skip
    assert told["output"] == str(tmp_path / "out.jsonl")
    assert "--json needs --output" in lightmbert("embed", path, "--json").stderr


def test_time_left_is_what_the_rest_takes_at_the_pace_since_the_start() -> None:
    assert Pace(rows=300, share=0.25, seconds=10).left_s == pytest.approx(30)
    assert str(Pace(rows=300, share=0.25, seconds=10)) == "30 rows/s, 0:00:30 left"
    assert Pace(rows=0, share=0, seconds=0).left_s is None
    assert str(Pace(rows=1_000, share=None, seconds=2)) == "500 rows/s"


def test_what_earlier_runs_did_is_no_part_of_the_pace(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["hund"] * 100)
    reader = Reader([path], column="text")
    rows = list(islice(reader, 60))
    counts = Counter({"ok": 60})
    progress = Progress(reader, counts, max_tokens=8, bar=False)
    counts["ok"] += 10
    pace = progress.pace(rows[-1].read_bytes + 50)  # ten rows of five bytes
    assert (pace.rows, pace.share) == (10, pytest.approx(50 / (500 - 1 - 300)))


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_how_much_is_read_grows_with_every_row_up_to_all(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": ["hund"] * 50}), path)
    else:
        line = '{"text": "hund"}' if kind == "jsonl" else "hund"
        write_lines(path, [*["text"] * (kind == "csv"), *[line] * 50, ""])
    reader = Reader([path, path], column="text")
    read = [row.read_bytes for row in reader]
    assert read == sorted(set(read))
    assert read[-1] == reader.total_bytes


def test_a_person_who_types_is_told_how_to_end(tmp_path: Path) -> None:
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "app.cli", "embed"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        os.close(theirs)
        assert running.stderr.readline() == "type a text a line, and Ctrl-D at the end\n"
        os.write(terminal, b"hund\n\x04")
        assert json.loads(running.stdout.readline())["status"] == "ok"
        running.communicate()
    os.close(terminal)
    assert running.returncode == 0


def test_a_pipe_that_is_closed_ends_the_run_quietly(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["hund"] * 3_000)
    shell = f"{sys.executable} -m app.cli embed {path} | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert json.loads(ended.stdout)["row"] == 1


def test_records_that_find_no_room_are_told_in_one_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", ["hund"] * 2_000)
    command = [sys.executable, "-m", "app.cli", "embed", path]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "lightmbert: No space left on device\n")


def test_a_file_is_not_overwritten_by_its_own_answers(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ['{"text": "hund"}'])
    result = lightmbert("embed", tmp_path, "--output", path)
    assert result.exit_code == 1
    assert "is read from; write to another file" in result.stderr
    assert path.read_text() == '{"text": "hund"}'
