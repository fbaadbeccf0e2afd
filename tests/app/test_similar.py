"""The nearest rows and the pairs of a pile, against the slow and obvious way; and the command."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import lightmbert
from typer.testing import Result

from app import shelf as shelf_module
from app import similar as similar_module
from app.files import Row
from app.shelf import Shelf
from app.similar import duplicates, nearest

WIDTH = 8


@pytest.fixture(autouse=True)
def _small_parts(toy_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_MODEL_DIR", str(toy_model_dir))
    monkeypatch.setattr(shelf_module, "BLOCK_ROWS", 16)
    monkeypatch.setattr(similar_module, "PART_ROWS", 10)


def coarse_vectors(count: int, seed: int = 0) -> np.ndarray:
    """(count, WIDTH) of small integers: many scores are equal, on every processor to the last bit."""
    drawn = np.random.default_rng(seed).integers(-1, 2, (count, WIDTH)).astype(np.float32)
    drawn[:, 0] += 3
    return drawn


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    """(count, WIDTH), coarse enough that some are equal."""
    drawn = coarse_vectors(count, seed)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, file: str = "a") -> list[tuple[Row, np.ndarray]]:
    return [(Row(file, i + 1, f"text {i}"), vector) for i, vector in enumerate(vectors)]


def shelf_of(vectors: np.ndarray) -> Shelf:
    shelf = Shelf(dimensions=WIDTH)
    for row, vector in rows_of(vectors, "queries"):
        shelf.add([row], vector[None])
    return shelf


@pytest.mark.parametrize(("queries", "rows", "top_k"), [(1, 95, 3), (40, 95, 7), (40, 4, 9)])
def test_the_nearest_are_those_of_all_that_are_nearest(queries: int, rows: int, top_k: int) -> None:
    asked, there = coarse_vectors(queries, 1), coarse_vectors(rows, 2)
    with shelf_of(asked) as shelf:
        found = list(nearest(shelf, rows_of(there), top_k=top_k))
    scores = asked @ there.T
    assert len(found) == queries
    for number, matches in enumerate(found):
        order = np.argsort(-scores[number], kind="stable")[:top_k]
        assert [match.found.number - 1 for match in matches] == order.tolist()
        assert [match.score for match in matches] == pytest.approx(scores[number, order].tolist())
        assert {match.query.number for match in matches} == {number + 1}


@pytest.mark.parametrize("threshold", [0.8, 0.99])
def test_duplicates_are_all_pairs_that_are_near_enough(threshold: float) -> None:
    vectors = unit_vectors(95)
    with Shelf(dimensions=WIDTH) as shelf:
        found = list(duplicates(rows_of(vectors), shelf, threshold=threshold))
    scores = vectors @ vectors.T
    expected = [(i, j) for j in range(95) for i in range(j) if scores[i, j] >= threshold]
    assert expected
    assert [(m.query.number - 1, m.found.number - 1) for m in found] == expected


def test_rows_are_read_a_part_at_a_time() -> None:
    read = 0

    def endless() -> Iterator[tuple[Row, np.ndarray]]:
        nonlocal read
        while True:
            read += 1
            yield Row("a", read, "hund"), np.eye(1, WIDTH, dtype=np.float32)[0]

    with Shelf(dimensions=WIDTH) as shelf:
        for match in duplicates(endless(), shelf, threshold=0.5):
            assert read <= match.found.number + 10
            if read > 50:
                break


def matches(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("\n".join(texts) + "\n")
    return path


def test_a_query_finds_its_meaning_in_another_language(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["katt", "", "tax", "hund", "hund tax"])
    result = lightmbert("similar", "dog", path, "-k", 2)
    assert result.stdout == f"1.000  {path}:4  hund\n0.707  {path}:5  hund tax\n"
    assert result.stderr == f"{path} row 2 is blank\n"
    best = matches(lightmbert("similar", "dog", path, "--json", "--threshold", 0.9))
    assert [(each["score"], each["found"]["row"]) for each in best] == [(1.0, 4)]


def test_each_row_of_a_file_may_be_a_query(tmp_path: Path) -> None:
    english = write(tmp_path / "en.txt", ["cat", "dog"])
    swedish = write(tmp_path / "sv.txt", ["hund", "katt"])
    found = matches(lightmbert("similar", "--queries", english, swedish, "-k", 1, "--json"))
    pairs = [(each["query"]["text"], each["found"]["text"]) for each in found]
    assert pairs == [("cat", "katt"), ("dog", "hund")]


def test_duplicates_are_told_once_and_across_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", ["hund", "tax"])
    write(tmp_path / "b.txt", ["katt", "dog"])
    result = lightmbert("similar", "--duplicates", tmp_path)
    assert result.stdout == f"1.000  {tmp_path}/a.txt:1  hund\n       {tmp_path}/b.txt:2  dog\n"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("dog",), 2, "similar needs files to look in: similar QUERY FILE..."),
        (("dog", "gone.txt"), 1, "gone.txt does not exist"),
        (("--duplicates", "--queries", "a.txt", "b.txt"), 2, "exclude each other"),
        ((" ", "{file}"), 1, "there is no query with an embedding"),
    ],
)
def test_what_cannot_be_searched_is_told(
    arguments: tuple[str, ...], status: int, told: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.txt", ["hund"])
    result = lightmbert("similar", *(each.format(file=file) for each in arguments))
    assert result.exit_code == status
    assert told in result.stderr.splitlines()[-1]
