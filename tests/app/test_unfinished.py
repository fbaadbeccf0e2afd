"""A run that was stopped goes on where it was, and its file is that of a run that was not."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import lightmbert
from toy_student import write_model_dir
from typer.testing import Result

from app import records
from app.bulk import MAX_CHUNK_ROWS

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("jsonl", "parquet")
ROWS = MAX_CHUNK_ROWS * 5
WORDS = ("hund", "katt", "tax", "", "hund katt")
GROUP_ROWS = 300

IN_A_PROCESS = f"""
import signal
from app import records
from app.cli import main
records._GROUP_ROWS = {GROUP_ROWS}
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.fixture(autouse=True)
def _toy(toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_MODEL_DIR", str(toy_model_dir))
    monkeypatch.setattr(records, "_GROUP_ROWS", GROUP_ROWS)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write(tmp_path / "in.txt", ROWS)


def write(path: Path, rows: int) -> Path:
    path.write_text("".join(f"{WORDS[i * i % 5]}\n" for i in range(rows)))
    return path


def embedded(texts: Path, output: Path, *arguments: object) -> Result:
    return lightmbert("embed", texts, "--output", output, *arguments)


def broken_off(texts: Path, output: Path, *, after: int) -> Path:
    """A run that stopped at a row it cannot get over, which is then mended; its folder."""
    lines = texts.read_text().splitlines(keepends=True)
    texts.write_text("".join([*lines[:after], "tax " * 9 + "\n", *lines[after:]]))
    result = embedded(texts, output, "--strict")
    assert result.exit_code == 1
    assert not output.exists()
    texts.write_text("".join(lines))
    folder = output.with_name(f"{output.name}.partial")
    kept = f"kept {after:,} rows in {folder}; the same command goes on from there"
    assert kept in " ".join(result.stderr.split())
    return folder


def without_blanks(texts: Path) -> Path:
    texts.write_text(
        "\n".join(line or "tax hund" for line in texts.read_text().splitlines()) + "\n"
    )
    return texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [2, 299, 300, 1_000])
def test_a_file_gone_on_with_is_that_of_one_go(
    kind: str, after: int, texts: Path, tmp_path: Path
) -> None:
    without_blanks(texts)
    output = tmp_path / f"out.{kind}"
    folder = broken_off(texts, output, after=after)
    result = embedded(texts, output, "--json")
    assert result.exit_code == 0, result.stderr
    assert f"going on after {after:,} rows" in result.stderr
    told = json.loads(result.stdout)
    assert (told["rows"], told["ok"], told["answered_before"]) == (ROWS, ROWS, after)
    embedded(texts, whole := tmp_path / f"whole.{kind}")
    assert output.read_bytes() == whole.read_bytes()
    assert not folder.exists()


@contextmanager
def waiting_for_more(texts: Path, output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has kept some of these rows, and cannot end before its input does."""
    command = [sys.executable, "-c", IN_A_PROCESS, "embed", "--output", output]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        running.stdin.write(texts.read_bytes())
        running.stdin.flush()
        wait_for(output.with_name(f"{output.name}.partial") / "progress.json", running)
        yield running


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_loses_nothing_that_was_kept(
    kind: str, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"out.{kind}"
    with waiting_for_more(texts, output) as running:
        running.kill()
    assert running.returncode == -signal.SIGKILL
    assert not output.exists()
    given = texts.read_bytes()
    told = json.loads(lightmbert("embed", "-o", output, "--json", stdin=given).stdout)
    assert 0 < told["answered_before"] < told["rows"] == ROWS
    lightmbert("embed", "-o", whole := tmp_path / f"whole.{kind}", stdin=given)
    assert output.read_bytes() == whole.read_bytes()


def test_an_interrupt_says_what_is_kept(texts: Path, tmp_path: Path) -> None:
    with waiting_for_more(texts, tmp_path / "out.jsonl") as running:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert running.stderr is not None
        *_, kept, last = running.stderr.read().decode().splitlines()
    assert kept.startswith("kept ")
    assert last == "lightmbert: interrupted"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dimensions", 2), "was begun with dimensions None, and now it is 2"),
        (("--truncate",), "was begun with truncate False, and now it is True"),
    ],
)
def test_another_question_does_not_go_on(
    arguments: tuple[object, ...], told: str, texts: Path, tmp_path: Path
) -> None:
    without_blanks(texts)
    output = tmp_path / "out.jsonl"
    folder = broken_off(texts, output, after=500)
    result = embedded(texts, output, *arguments)
    assert result.exit_code == 1
    assert f"{folder} {told}; to begin anew, add --restart" in " ".join(result.stderr.split())
    assert embedded(texts, output).exit_code == 0  # nothing was lost by asking


def test_another_model_does_not_go_on(texts: Path, tmp_path: Path) -> None:
    def revised(described: dict[str, Any]) -> None:
        described["revision"] = "2"

    without_blanks(texts)
    output = tmp_path / "out.jsonl"
    broken_off(texts, output, after=500)
    other = write_model_dir(tmp_path / "other", revised)
    result = embedded(texts, output, "--model-dir", other)
    assert "was begun with revision '1', and now it is '2'" in result.stderr


def test_other_rows_do_not_go_on_and_a_restart_begins_anew(texts: Path, tmp_path: Path) -> None:
    without_blanks(texts)
    output = tmp_path / "out.jsonl"
    broken_off(texts, output, after=500)
    lines = texts.read_text().splitlines(keepends=True)
    lines[499] = "katt katt\n"
    texts.write_text("".join(lines))
    result = embedded(texts, output)
    assert "answers other rows than the first of these" in result.stderr
    assert not output.exists()
    told = json.loads(embedded(texts, output, "--restart", "--json").stdout)
    assert (told["answered_before"], told["rows"]) == (0, ROWS)


def test_rows_that_were_added_since_are_answered_too(texts: Path, tmp_path: Path) -> None:
    without_blanks(texts)
    output = tmp_path / "out.jsonl"
    broken_off(texts, output, after=500)
    with texts.open("a") as file:
        file.write("katt\n")
    assert embedded(texts, output).exit_code == 0
    assert len(output.read_text().splitlines()) == ROWS + 1


def test_counts_are_of_all_runs(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    texts = tmp_path / "in.csv"
    texts.write_text("text\n" + "hund\n,\n" * ROWS + '"')
    assert embedded(texts, output).exit_code == 1
    texts.write_text("text\n" + "hund\n,\n" * ROWS)
    told = json.loads(embedded(texts, output, "--json").stdout)
    assert told["answered_before"] > 0
    assert (told["ok"], told["blank"]) == (ROWS, ROWS)


def test_two_processes_do_not_write_one_file(texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "app.cli", "embed", "-o", output]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as one:
        wait_for(tmp_path / "out.jsonl.partial" / "rows.jsonl", one)
        result = embedded(texts, output)
        assert "out.jsonl is being written by another process" in result.stderr
        one.communicate(b"hund\n")
    assert len(output.read_text().splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_in_one_line_and_what_fitted_is_gone_on_with(
    kind: str, tmp_path: Path
) -> None:
    texts = write(tmp_path / "in.txt", 10_000)
    output = tmp_path / f"out.{kind}"

    def limit() -> None:  # to a file, it is what a full disk is to all files
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    command = [sys.executable, "-m", "app.cli", "embed", texts, "-o", output]
    full = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert full.returncode == 1
    told = [line for line in full.stderr.splitlines() if line.startswith("lightmbert: ")]
    assert told == [f"lightmbert: {output} cannot be written: File too large"]
    assert not output.exists()
    assert embedded(texts, output).exit_code == 0
    embedded(texts, whole := tmp_path / f"whole.{kind}")
    assert output.read_bytes() == whole.read_bytes()


def test_progress_that_was_damaged_is_told(texts: Path, tmp_path: Path) -> None:
    without_blanks(texts)
    output = tmp_path / "out.jsonl"
    folder = broken_off(texts, output, after=500)
    (folder / "rows.jsonl").write_text("")
    result = embedded(texts, output)
    assert "holds less than it did; to begin anew, add --restart" in result.stderr
    (folder / "progress.json").write_text("{")
    assert "holds no progress that can be read" in embedded(texts, output).stderr
    assert embedded(texts, output, "--restart").exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_where_no_row_was_answered(kind: str, tmp_path: Path) -> None:
    output = tmp_path / f"out.{kind}"
    result = lightmbert("classify", "--task", "mood", "-o", output, stdin="x")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", "unknown kind '.csv'; written: .jsonl, .parquet"),
        ("gone/a.jsonl", "gone/a.jsonl cannot be written: No such file or directory"),
        ("folder.parquet", "folder.parquet cannot be written: Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_any_work(
    name: str, message: str, texts: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    result = embedded(texts, tmp_path / name, "--model-dir", tmp_path / "no-model")
    assert message in result.stderr


def test_parquet_groups_are_as_large_as_at_one_go(texts: Path, tmp_path: Path) -> None:
    without_blanks(texts)
    output = tmp_path / "out.parquet"
    broken_off(texts, output, after=1_000)
    embedded(texts, output)
    metadata = pq.read_metadata(output)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [GROUP_ROWS] * (ROWS // GROUP_ROWS) + [ROWS % GROUP_ROWS]


def wait_for(path: Path, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert running.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)
